"""Dead jobs by what killed them: thousands of them are a few groups, each with the filter that finds it again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from psyqueue import JobView, PsyQueue
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.operating.query import Term, quoted
from psyqueue.operating.selection import Selection

LOOKED_AT_CHARS_MAX = 500
GIST_CHARS_MAX = 160
"""A fingerprint is the name of a type and the gist of a text: each at most so long."""

_VARYING = re.compile(
    r"""
      (?<!\w)[bru]{0,2}'(?:[^'\\]|\\.|'(?=\w))*+(?:'|$)             # quoted; to the end where the quote is never closed
    | (?<!\w)[bru]{0,2}"(?:[^"\\]|\\.|"(?=\w))*+(?:"|$)
    | (?<![\w.+-])[\w.+-]++@[\w-]+(?:\.[\w-]+)*                     # e-mail addresses
    | (?<![0-9a-z])[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}(?![0-9a-z])
    | (?<!\w)0x[0-9a-f]+                                            # addresses in memory
    | (?<![0-9a-z])(?:(?=[a-f]*\d)[0-9a-f]{7,}|[0-9a-f]{16,})(?![0-9a-z])
    | (?<![0-9a-z])(?=[a-z]*\d+[a-z]+\d)[0-9a-z]{12,}(?![0-9a-z])   # ids of letters and digits, such as ULIDs
    | (?:(?<![\w)\]])[-+])?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?
    """,
    re.IGNORECASE | re.VERBOSE,
)
_ROW_OF_STARS = re.compile(r"\*(?:[\s,;]*\*)+")
_UNQUOTABLE = re.compile(r"[\s,\"']|^[<>]")
"""What an unquoted value cannot hold, or not at its begin; and ', so that a shell takes the filter in such quotes."""


class FailureGroup(Struct, frozen=True, kw_only=True):
    """Dead jobs of one name that died of the same.

    `reason` and `error` (a `fingerprint`; "" where no run failed) have `*` for what differs among them. `first_at` and
    `last_at` are the first and the latest death, `example_id` is the job that died last. `where` is a filter that finds
    all of the group, and maybe some more: it asks whether any error of a job holds the fingerprint, so it finds those
    too that failed so in an earlier attempt, and those whose error says the same and goes on.
    """

    name: str
    reason: str
    error: str
    count: int
    queues: tuple[str, ...]
    first_at: datetime
    last_at: datetime
    example_id: str
    where: str


class Failures(Struct, frozen=True, kw_only=True):
    """`groups`: the largest first, then the latest. `looked`: at so many that fit. `is_complete`: at all that do."""

    groups: tuple[FailureGroup, ...]
    looked: int
    is_complete: bool


async def failure_groups(queue: PsyQueue, terms: tuple[Term, ...], *, jobs_max: int) -> Failures:
    """What killed the dead jobs that fit `terms`, of the first `jobs_max` that there are, in whole pages of the store.

    Raises InvalidOption.
    """
    selection = await Selection.open(queue, terms, ("dead",))
    tallies: dict[tuple[str, str, str], _Tally] = {}
    looked, cursor = 0, None
    for _ in range(-(-jobs_max // ITEMS_MAX)):
        # Of a filter that only some fit a page may be short, and has cost as much.
        page, cursor = await selection.page(min(ITEMS_MAX, jobs_max - looked), cursor, steps_max=1)
        for view in page:
            _count(tallies, view)
        looked += len(page)
        if cursor is None:
            break
    # At the bound it is only asked whether there is one more.
    more: Sequence[JobView] = ()
    if cursor is not None:
        more, cursor = await selection.page(1, cursor, steps_max=1)
    return Failures(groups=_ordered(tallies), looked=looked, is_complete=not more and cursor is None)


class _Tally(Struct):
    """What is kept of a group while its jobs pass by."""

    first_at: datetime
    last_at: datetime
    example_id: str
    count: int
    queues: set[str]


def _count(tallies: dict[tuple[str, str, str], _Tally], view: JobView) -> None:
    died_at = view.completed_at
    assert died_at is not None, view.id
    key = (view.name, _gist(view.reason), fingerprint(view.errors[-1]) if view.errors else "")
    tally = tallies.get(key)
    if tally is None:
        tally = tallies[key] = _Tally(died_at, died_at, view.id, 0, set())
    tally.count += 1
    tally.queues.add(view.queue)
    tally.first_at = min(tally.first_at, died_at)
    if died_at >= tally.last_at:
        tally.last_at, tally.example_id = died_at, view.id


def _ordered(tallies: Mapping[tuple[str, str, str], _Tally]) -> tuple[FailureGroup, ...]:
    groups = [
        FailureGroup(
            name=name,
            reason=reason,
            error=error,
            count=tally.count,
            queues=tuple(sorted(tally.queues)),
            first_at=tally.first_at,
            last_at=tally.last_at,
            example_id=tally.example_id,
            where=_where(name, reason, error),
        )
        for (name, reason, error), tally in tallies.items()
    ]
    return tuple(sorted(groups, key=lambda group: (group.count, group.last_at), reverse=True))


# ── what errors have in common ────────────────────────────────────────────────────────────────────────────────────────
def fingerprint(error: Mapping[str, Any]) -> str:
    """`ConnectionError: cannot reach smtp-*:*`: its type, and the first line of its message without what varies.

    `*` stands for numbers, ids, e-mail addresses, quoted texts, control characters, more lines, and the end of what is
    too long. All of it is printable, on one line. "" for an error that says nothing.
    """
    kind, text = f"{error.get('type', '')}", f"{error.get('message', '')}"
    return ": ".join(part for part in (_cut(_printable(kind)), _gist(text.rstrip())) if part)


def _gist(text: str) -> str:
    """The first line that says something; as a pattern it matches all of `text`, since `*` is whatever was left out."""
    said = text.lstrip()
    line = next(iter(said.splitlines()), "")[:LOOKED_AT_CHARS_MAX]
    kept = _printable(_VARYING.sub("*", line))
    before, after = "*" * (len(said) < len(text)), "*" * (len(line) < len(said))
    return _cut(_ROW_OF_STARS.sub("*", f"{before}{kept}{after}"))


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "*" for each in text)


def _cut(text: str) -> str:
    return text if len(text) <= GIST_CHARS_MAX else f"{text[: GIST_CHARS_MAX - 1].rstrip('*')}*"


# ── the filter of a group ─────────────────────────────────────────────────────────────────────────────────────────────
def _where(name: str, reason: str, error: str) -> str:
    return " ".join(_conditions(name, reason, error))


def _conditions(name: str, reason: str, error: str) -> Iterable[str]:
    yield "status:dead"
    yield f"name:{quoted(name)}"
    # Without a star nothing was taken out of it.
    yield f"reason:{_pattern(reason) if '*' in reason else quoted(reason)}"
    if error:
        # Contained-in: at the ends a star means nothing.
        yield f"error:{_pattern(error.strip('*')) or '*'}"


def _pattern(text: str) -> str:
    return _UNQUOTABLE.sub("?", text)
