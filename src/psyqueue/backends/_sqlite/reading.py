"""Looking: jobs by id, listings in bounded pages, queues, schedules, the shared state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from psyqueue.backend import Filter, Holders, Item, JobView, Limits, Page, QueueInfo, Schedule, Stored
from psyqueue.backend.bounds import SCAN_MAX
from psyqueue.backends._sqlite.effects import live_cell
from psyqueue.backends._sqlite.limits import limited, limits_of
from psyqueue.backends._sqlite.rows import Row, find, load
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import ACTIVE, COMPLETED, NUMBER_OF, PENDING, Step
from psyqueue.backends._sqlite.views import Viewer
from psyqueue.errors import InvalidOption
from psyqueue.job import STATUSES

_CHUNK = 200
_to_json = msgspec.json.encode


class Place(Struct, frozen=True, array_like=True, order=True):
    """Where a job stands in a listing. `key` orders a group: the instant of the end of ended jobs, 0 of others."""

    queue: str
    status: int
    key: int
    n: int


_START = (-(1 << 62), 0)
_decode_place = msgspec.json.Decoder(Place).decode


def get(step: Step, ids: Sequence[str]) -> tuple[JobView | None, ...]:
    viewer = Viewer(step)
    rows = [find(step, job_id) for job_id in ids]
    return tuple(viewer.view(row) if row is not None else None for row in rows)


def holders(step: Step, unique: Sequence[str], idempotency: Sequence[str]) -> Holders:
    found = (step.run(SQL["holders.unique"], (key,)).fetchone() for key in unique)
    kept = (step.run(SQL["holders.idempotency"], (key, step.mono_ms)).fetchone() for key in idempotency)
    return Holders(tuple(row[0] if row is not None else None for row in found), tuple(kept))


def list_jobs(step: Step, where: Filter, cursor: str | None, limit: int) -> Page:
    numbers, next_cursor = walk(step, where, cursor, limit)
    viewer = Viewer(step)
    return Page(tuple(viewer.view(load(step, n)) for n in numbers), next_cursor)


def walk(
    step: Step, where: Filter, cursor: str | None, limit: int, statuses: Sequence[int] = tuple(range(len(STATUSES)))
) -> tuple[list[int], str | None]:
    """Numbers of up to `limit` matching jobs after `cursor`, and where to go on. Looks at SCAN_MAX jobs at most.

    Queues come by name, in a queue the statuses in the order given.
    """
    after = _place_of(cursor)
    found: list[int] = []
    last: Place | None = None
    looked = 0
    for chunk in _chunks(step, where, after, statuses):
        matching = _matching(step, where, chunk)
        for place, row in chunk:
            if looked >= SCAN_MAX or (len(found) >= limit and row[1] in matching):
                return found, _cursor_of(last)
            looked += 1
            last = place
            if row[1] in matching:
                found.append(row[1])
    return found, None


def _place_of(cursor: str | None) -> Place | None:
    if cursor is None:
        return None
    try:
        return _decode_place(cursor)
    except msgspec.MsgspecError as exc:
        raise InvalidOption("cursor", cursor, "is not one that this store gave out") from exc


def _cursor_of(place: Place | None) -> str | None:
    return None if place is None else msgspec.json.encode(place).decode()


_Looked = list[tuple[Place, tuple[Any, ...]]]


def _chunks(step: Step, where: Filter, after: Place | None, statuses: Sequence[int]) -> Iterator[_Looked]:
    if where.ids:
        yield _by_ids(step, where, after, statuses)
        return
    asked = [status for status in statuses if not where.statuses or STATUSES[status] in where.statuses]
    for queue in _queues(step, where, after):
        for status in asked:
            start = _START
            if after is not None and queue == after.queue:
                if statuses.index(status) < statuses.index(after.status):
                    continue
                if status == after.status:
                    start = (after.key, after.n)
            yield from _group(step, queue, status, start)


def _queues(step: Step, where: Filter, after: Place | None) -> list[str]:
    first = after.queue if after is not None else ""
    if where.queues:
        return sorted(name for name in set(where.queues) if name >= first)
    return [name for (name,) in step.run(SQL["reading.queues_with_jobs"], (first,)).fetchall()]


def _group(step: Step, queue: str, status: int, start: tuple[int, int]) -> Iterator[_Looked]:
    key, n = start
    while rows := _group_rows(step, queue, status, key, n):
        yield [(Place(queue, status, row[0], row[1]), row) for row in rows]
        key, n = rows[-1][:2]


def _group_rows(step: Step, queue: str, status: int, key: int, n: int) -> list[tuple[Any, ...]]:
    if status >= COMPLETED:
        return step.run(SQL["reading.ended"], (queue, status, key, n, _CHUNK)).fetchall()
    if status == ACTIVE:
        return step.run(SQL["reading.active"], (queue, n, _CHUNK)).fetchall()
    return step.run(SQL["reading.unstarted"], (queue, status, n, _CHUNK)).fetchall()


def _by_ids(step: Step, where: Filter, after: Place | None, statuses: Sequence[int]) -> _Looked:
    rows = [row for job_id in dict.fromkeys(where.ids) if (row := find(step, job_id)) is not None]
    looked = [(_place(row), _small(row)) for row in rows if _is_in_group(row, where)]
    looked.sort(key=lambda each: (each[0].queue, statuses.index(each[0].status), each[0].key, each[0].n))
    if after is None:
        return looked
    passed = (after.queue, statuses.index(after.status), after.key, after.n)
    return [each for each in looked if (each[0].queue, statuses.index(each[0].status), each[0].key, each[0].n) > passed]


def _is_in_group(row: Row, where: Filter) -> bool:
    return (not where.queues or row.queue in where.queues) and (not where.statuses or row.status_name in where.statuses)


def _place(row: Row) -> Place:
    key = row.completed_at_ms if row.is_ended and row.completed_at_ms is not None else 0
    return Place(row.queue, row.status, key, row.n)


def _small(row: Row) -> tuple[Any, ...]:
    return (0, row.n, row.id, row.name, row.lane, row.created_at_ms, row.completed_at_ms, row.reason)


def _matching(step: Step, where: Filter, chunk: _Looked) -> set[int]:
    numbers = [row[1] for _, row in chunk if _matches(where, row)]
    if where.text and numbers:
        text, raw = where.text, where.text.encode()
        params = (_to_json(numbers).decode(), text, text, raw, raw)
        return {n for (n,) in step.run(SQL["reading.with_text"], params)}
    return set(numbers)


def _matches(where: Filter, row: tuple[Any, ...]) -> bool:
    _, _, _, name, lane, created_at_ms, completed_at_ms, reason = row
    return (
        (not where.names or name in where.names)
        and (not where.lanes or lane in where.lanes)
        and (where.created_from_ms is None or created_at_ms >= where.created_from_ms)
        and (where.created_to_ms is None or created_at_ms < where.created_to_ms)
        and (where.ended_before_ms is None or (completed_at_ms is not None and completed_at_ms < where.ended_before_ms))
        and (not where.reason or reason == where.reason)
    )


def matches(step: Step, where: Filter, row: Row) -> bool:
    """Whether one job fits the whole filter."""
    if where.ids and row.id not in where.ids:
        return False
    return _is_in_group(row, where) and bool(_matching(step, where, [(_place(row), _small(row))]))


# ── queues ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def queues(step: Step, prefix: str, cursor: str | None, limit: int) -> tuple[tuple[QueueInfo, ...], str | None]:
    rows = step.run(SQL["reading.queues"], (cursor or "", prefix, limit + 1)).fetchall()
    names = [name for (name,) in rows if name.startswith(prefix)]
    page = names[:limit]
    return tuple(_queue_info(step, name) for name in page), page[-1] if len(names) > limit else None


def lane_limits(
    step: Step, queue: str, prefix: str, cursor: str | None, limit: int
) -> tuple[tuple[Limits, ...], str | None]:
    start = max(prefix, cursor or "")
    rows = step.run(SQL["limits.of_lanes"], (queue, start, cursor, limit + 1)).fetchall()
    found = [limits for limits in map(limits_of, rows) if (limits.lane or "").startswith(prefix)]
    page = found[:limit]
    return tuple(page), page[-1].lane if len(found) > limit else None


def _queue_info(step: Step, queue: str) -> QueueInfo:
    jobs = step.tallies(queue)
    oldest = step.run(SQL["reading.oldest_pending"], (queue, PENDING)).fetchone()
    (lanes,) = step.run(SQL["reading.used_lanes"], (queue,)).fetchone()
    found = limited(step, queue, None)
    return QueueInfo(
        queue=queue,
        counts={status: jobs.get(NUMBER_OF[status], 0) for status in STATUSES},
        oldest_pending_at_ms=oldest[0] if oldest is not None else None,
        lanes=lanes,
        limits=found.limits if found is not None else Limits(queue=queue),
    )


# ── schedules, state, records ─────────────────────────────────────────────────────────────────────────────────────────
def list_schedules(step: Step, cursor: str | None, limit: int) -> tuple[tuple[Schedule, ...], str | None]:
    rows = step.run(SQL["reading.schedules"], (cursor or "", limit + 1)).fetchall()
    page = tuple(schedule_of(row) for row in rows[:limit])
    return page, page[-1].id if len(rows) > limit else None


def schedule_of(row: tuple[Any, ...]) -> Schedule:
    return Schedule(
        id=row[0], spec=row[1], version=row[2], next_at_ms=row[3], last_nominal_ms=row[4], paused=bool(row[5])
    )


def read_state(step: Step, keys: Sequence[str]) -> tuple[Item | None, ...]:
    cells = [(key, live_cell(step, key)) for key in keys]
    return tuple(Item(key, cell[0], cell[1]) if cell is not None else None for key, cell in cells)


def scan_state(step: Step, prefix: str, cursor: str | None, limit: int) -> tuple[tuple[Item, ...], str | None]:
    rows = step.run(SQL["state.scan"], (prefix, cursor or "", step.mono_ms, limit + 1)).fetchall()
    items = [Item(*row) for row in rows if row[0].startswith(prefix)]
    page = tuple(items[:limit])
    return page, page[-1].key if len(items) > limit else None


def read_records(step: Step, stream: str, after_seq: int, limit: int) -> tuple[Stored, ...]:
    return tuple(Stored(*row) for row in step.run(SQL["state.records"], (stream, after_seq, limit)))
