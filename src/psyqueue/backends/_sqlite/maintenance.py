"""Retention: what nobody needs any more goes, in bounded steps."""

from __future__ import annotations

from typing import TypeAlias

from psyqueue.backend import Done, Limits
from psyqueue.backend.state_rules import CLOSED_SESSIONS_KEPT_MS, FIRES_KEPT_MS, OPS_KEPT_MS
from psyqueue.backends._sqlite.limits import limited
from psyqueue.backends._sqlite.rows import KEYED, let_go_unique_of, load
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import CANCELLED, COMPLETED, DEAD, Step
from psyqueue.codec import encode_trusted as json_encode

_Ended: TypeAlias = tuple[int, int, int, int]
"""(completed at, number, status, links)"""
_FOR_EVER_MS = 1 << 62


def prune(step: Step, limit: int) -> Done:
    if step.starts_nothing:
        return Done()
    ids = _prune_jobs(step, limit)
    is_more = len(ids) >= limit
    mono_ms = step.mono_ms
    step.flush_counts()
    for name, before_ms in (
        ("idempotency", mono_ms),
        ("state", mono_ms),
        ("records", mono_ms),
        ("turns", mono_ms - OPS_KEPT_MS),
        ("fires", mono_ms - FIRES_KEPT_MS),
        ("sessions", mono_ms - CLOSED_SESSIONS_KEPT_MS),
    ):
        is_more |= step.run(SQL[f"prune.{name}"], (before_ms, limit)).rowcount >= limit
    is_more |= step.run(SQL["prune.lanes"], (limit,)).rowcount >= limit
    step.run(SQL["prune.tallies"])
    return Done(tuple(ids), more=is_more)


def _prune_jobs(step: Step, limit: int) -> list[str]:
    ids: list[str] = []
    for (queue,) in step.run(SQL["prune.queues"]).fetchall():
        found = limited(step, queue, None)
        limits = found.limits if found is not None else Limits(queue=queue)
        for statuses, retention in (((COMPLETED, CANCELLED), limits.retain_ended), ((DEAD,), limits.retain_dead)):
            if retention is not None and len(ids) < limit:
                ids += _prune_kind(step, queue, statuses, retention, limit - len(ids))
    return ids


def _prune_kind(step: Step, queue: str, statuses: tuple[int, ...], retention: tuple[int, int], limit: int) -> list[str]:
    """First what is too old, then what is too much; oldest end first, never a job that is needed or held."""
    keep_ms, keep_count = retention
    jobs = step.tallies(queue)
    excess = sum(jobs.get(status, 0) for status in statuses) - keep_count
    doomed = _oldest(step, queue, statuses, step.now_ms - keep_ms, limit)
    if len(doomed) < min(limit, excess):
        doomed = _oldest(step, queue, statuses, _FOR_EVER_MS, min(limit, excess))
    return _drop_all(step, queue, doomed)


def _oldest(step: Step, queue: str, statuses: tuple[int, ...], until_ms: int, limit: int) -> list[_Ended]:
    """Ended jobs that nobody needs or holds, up to `limit` that ended by `until_ms`, oldest first."""
    found: list[_Ended] = []
    for status in statuses:
        found += step.run(SQL["prune.aged"], (queue, status, until_ms, limit)).fetchall()
    found.sort()
    return found[:limit]


def _drop_all(step: Step, queue: str, doomed: list[_Ended]) -> list[str]:
    """Set by set: at full speed as many jobs are pruned as are run."""
    if not doomed:
        return []
    for _, n, status, links in doomed:
        step.count(queue, "", status, -1)
        if links & KEYED:
            let_go_unique_of(step, load(step, n))
    numbers = json_encode([n for _, n, _, _ in doomed]).decode()
    for statement in ("prune.drop_jobs", "prune.drop_results", "prune.drop_errors"):
        step.run(SQL[statement], (numbers,))
    ids = dict(step.run(SQL["prune.drop_bodies"], (numbers,)).fetchall())
    return [ids[n] for _, n, _, _ in doomed]
