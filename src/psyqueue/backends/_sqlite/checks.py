"""Broken invariants in words. None: the store is whole."""

from __future__ import annotations

from typing import Any

from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import ACTIVE, COMPLETED, PENDING, WAITING, Step
from psyqueue.job import ERRORS_KEPT

_OF_STORE = ("halves", "tallies", "lanes", "gates", "unique", "edges", "tokens", "numbers")
_WORDS_MAX = 100


def broken(step: Step, cursor: str | None, limit: int) -> tuple[tuple[str, ...], str | None]:
    """`limit` jobs a call, in order of id; what concerns the whole store is said with the first page."""
    words = [] if cursor is not None else _of_store(step)
    rows = step.run(SQL["check.jobs"], (cursor or "", limit + 1)).fetchall()
    for row in rows[:limit]:
        words += [f"job {row[0]}: {problem}" for problem in _of_job(row)]
    return tuple(words), rows[limit - 1][0] if len(rows) > limit else None


def _of_store(step: Step) -> list[str]:
    words = [str(line) for (line,) in step.run(f"PRAGMA quick_check({_WORDS_MAX})") if line != "ok"]
    for name in _OF_STORE:
        words += [line for (line,) in step.run(SQL[f"check.{name}"]).fetchmany(_WORDS_MAX)]
    return words


def _of_job(row: tuple[Any, ...]) -> list[str]:
    _, _, status, has_token, has_session, has_end, has_number, attempt, max_retries, fence = row[:10]
    needs_left, unmet, has_place, errors, held, has_gate, cancel_requested = row[10:]
    problems = {
        "active, token and session go together": (status == ACTIVE) <= (has_token and has_session),
        "an ended job has its time of end": (status >= COMPLETED) == has_end,
        "pending has a ready number": status != PENDING or has_number,
        "attempt is within its retries": 0 <= attempt <= max_retries + 1,
        "fence is at least attempt": fence >= attempt,
        "unmet needs are counted": status != WAITING or needs_left == unmet,
        "an ended job holds no place": not (has_place and status >= COMPLETED),
        "a place needs a gate": not has_place or has_gate,
        "errors are bounded": errors <= ERRORS_KEPT,
        "active is not held": not (held and status == ACTIVE),
        "only an active job is asked to cancel": not cancel_requested or status == ACTIVE,
    }
    return [promise for promise, holds in problems.items() if not holds]
