"""Moving house: everything out as it is, and in as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from psyqueue.backend import (
    Dependency,
    Exported,
    Limits,
    Moved,
    MovedFire,
    MovedJob,
    MovedKey,
    MovedLock,
    MovedNeed,
    MovedRecord,
    MovedState,
    MovedStream,
    Numbers,
    Part,
    Schedule,
)
from psyqueue.backend.bounds import fitting
from psyqueue.backends._memory import fence, lifecycle
from psyqueue.backends._memory.maintenance import is_needed
from psyqueue.backends._memory.state import Bucket, Cell, Holder, Kept, Line, Row, Store
from psyqueue.backends._memory.tables import Table
from psyqueue.errors import IdConflict, InvalidOption, InvalidState, KeyConflict, UnknownDependency
from psyqueue.job import STATUSES, Status

_PLACED = ("scheduled", "pending", "active")


# ── out ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
def export_part(store: Store, part: Part, cursor: str | None, limit: int) -> Exported:
    items = sorted(_PARTS[part](store), key=lambda item: item[0])
    if cursor is not None:
        after = _place_in(cursor)
        items = [item for item in items if item[0] > after]
    page = items[: fitting([moved for _, moved in items[:limit]])]
    cursor = msgspec.json.encode(page[-1][0]).decode() if len(items) > len(page) else None
    return Exported(tuple(moved for _, moved in page), cursor)


def _place_in(cursor: str) -> tuple[Any, ...]:
    try:
        return msgspec.json.decode(cursor, type=tuple[Any, ...])
    except msgspec.MsgspecError as exc:
        raise InvalidOption("cursor", cursor, "is not one that this store gave out") from exc


_Items = Iterable[tuple[tuple[Any, ...], Moved]]
"""Each with its place in the order of its part."""


def _numbers(store: Store) -> _Items:
    yield (0,), Numbers(store.counters.get("made", 0), store.counters.get("ready", 0))


def _limits(store: Store) -> _Items:
    # None is a queue's own, "" its default lane's.
    return (((queue, lane is not None, lane or ""), limits) for (queue, lane), limits in store.limits.items())


def _schedules(store: Store) -> _Items:
    return (((schedule.id,), schedule) for schedule in store.schedules.values())


def _fires(store: Store) -> _Items:
    return ((key, MovedFire(*key)) for key in store.fires)


def _state(store: Store) -> _Items:
    for key, cell in store.cells.items():
        if _left_ms(store, cell.expires_mono_ms) != 0:
            bucket = cell.bucket
            yield (
                (key,),
                MovedState(
                    item=cell.item,
                    left_ms=_left_ms(store, cell.expires_mono_ms),
                    level=None if bucket is None else bucket.level,
                    age_ms=0 if bucket is None else store.mono_ms() - bucket.at_mono_ms,
                ),
            )


def _streams(store: Store) -> _Items:
    return (((stream,), MovedStream(stream, seq)) for stream, seq in store.streams.items())


def _records(store: Store) -> _Items:
    for (stream, seq), line in store.records.items():
        yield (stream, seq), MovedRecord(stream, line.stored, _left_ms(store, line.expires_mono_ms))


def _locks(store: Store) -> _Items:
    for name, held in store.locks.items():
        left_ms = max(0, held.until_mono_ms - store.mono_ms())
        yield (name,), MovedLock(name, held.holder, held.fence, left_ms)


def _keys(store: Store) -> _Items:
    for key, kept in store.kept.items():
        if (left_ms := kept.expires_mono_ms - store.mono_ms()) > 0:
            yield (key,), MovedKey(key, kept.job_id, kept.digest, left_ms)


def _jobs(store: Store) -> _Items:
    return (((row.number,), _moved_job(store, row)) for row in store.rows.values())


def _needs(store: Store) -> _Items:
    for edge in store.edges.values():
        on: tuple[Status, ...] = tuple(status for status in STATUSES if status in edge.on)
        yield (edge.child, edge.parent), MovedNeed(edge.child, edge.parent, on, edge.met)


_PARTS: dict[Part, Callable[[Store], _Items]] = {
    "numbers": _numbers,
    "limits": _limits,
    "schedules": _schedules,
    "fires": _fires,
    "state": _state,
    "streams": _streams,
    "records": _records,
    "locks": _locks,
    "keys": _keys,
    "jobs": _jobs,
    "needs": _needs,
}


def _left_ms(store: Store, expires_mono_ms: int | None) -> int | None:
    """What is left of a time that runs; 0 = it is over, None = it never ends."""
    return None if expires_mono_ms is None else max(0, expires_mono_ms - store.mono_ms())


def _moved_job(store: Store, row: Row) -> MovedJob:
    job = row.job
    return MovedJob(
        job=replace(job, delay_ms=0, run_at_ms=row.run_at_ms, expires_in_ms=None),
        number=row.number,
        ready_number=row.ready_number if row.status == "pending" else None,
        status=row.status,
        attempt=row.attempt,
        lost=row.lost,
        fence=row.fence,
        generation=row.generation,
        needs_left=row.needs_left if row.status == "waiting" else 0,
        held=row.held,
        cancel_requested=row.cancel_requested,
        has_key=job.unique is not None and store.unique.get(job.unique.key) == job.id,
        is_needed=is_needed(store, row),
        reason=row.reason,
        created_at_ms=row.created_at_ms,
        started_at_ms=row.started_at_ms,
        completed_at_ms=row.completed_at_ms,
        run_at_ms=row.run_at_ms,
        expires_at_ms=row.expires_at_ms,
        result=row.result if row.result is not None or row.status != "completed" else b"null",
        errors=row.errors,
    )


# ── in ────────────────────────────────────────────────────────────────────────────────────────────────────────────────
def import_part(store: Store, items: Sequence[Moved]) -> int:
    return sum(_import_one(store, item) for item in items)


def _import_one(store: Store, item: Moved) -> bool:
    if not fence.starts_nothing(store) and not isinstance(item, MovedJob | MovedNeed):
        raise InvalidState(f"{type(item).__name__}: is only taken while the namespace is frozen or filling")
    return _IMPORTS[type(item)](store, item)


def _put_new(table: Any, key: Any, value: Any) -> bool:
    if key in table:
        return False
    table[key] = value
    return True


def _until(store: Store, left_ms: int | None) -> int | None:
    return None if left_ms is None else store.mono_ms() + left_ms


def _raise_numbers(store: Store, numbers: Numbers) -> bool:
    is_raised = False
    for counter, number in (("made", numbers.made), ("ready", numbers.ready)):
        if store.counters.get(counter, 0) < number:
            store.counters[counter] = number
            is_raised = True
    return is_raised


def _import_limits(store: Store, limits: Limits) -> bool:
    return _put_new(store.limits, (limits.queue, limits.lane), limits)


def _import_schedule(store: Store, schedule: Schedule) -> bool:
    return _put_new(store.schedules, schedule.id, schedule)


def _import_fire(store: Store, fire: MovedFire) -> bool:
    return _put_new(store.fires, (fire.schedule_id, fire.nominal_ms), store.mono_ms())


def _import_stream(store: Store, moved: MovedStream) -> bool:
    is_new = store.streams.get(moved.stream, 0) < moved.seq
    if is_new:
        store.streams[moved.stream] = moved.seq
    return is_new


def _import_record(store: Store, record: MovedRecord) -> bool:
    line = Line(record.stored, _until(store, record.left_ms))
    return _put_new(store.records, (record.stream, record.stored.seq), line)


def _import_state(store: Store, moved: MovedState) -> bool:
    item = moved.item
    found = store.cells.get(item.key)
    if found is not None and found.item.version >= item.version:
        return False
    bucket = None if moved.level is None else Bucket(moved.level, store.mono_ms() - moved.age_ms)
    store.cells[item.key] = Cell(item, _until(store, moved.left_ms), bucket)
    return True


def _import_lock(store: Store, lock: MovedLock) -> bool:
    found = store.locks.get(lock.name)
    if found is not None and found.fence >= lock.fence:
        return False
    store.locks[lock.name] = Holder(lock.holder, lock.fence, store.mono_ms() + lock.left_ms)
    return True


def _import_key(store: Store, key: MovedKey) -> bool:
    found = store.kept.get(key.key)
    if found is not None and found.expires_mono_ms > store.mono_ms():
        if found.job_id != key.job_id:
            raise KeyConflict(key.key, found.job_id, "idempotency")
        return False
    store.kept[key.key] = Kept(key.job_id, key.digest, store.mono_ms() + key.left_ms)
    return True


def _import_job(store: Store, moved: MovedJob) -> bool:
    job = moved.job
    found = store.rows.get(job.id)
    if found is not None:
        if found.job.digest != job.digest:
            raise IdConflict(job.id)
        return False
    if moved.status == "active" or not (moved.held or fence.starts_nothing(store)):
        state = "active" if moved.status == "active" else "not held, and the namespace is neither frozen nor filling"
        raise InvalidState(f"job {job.id!r} cannot be taken in: it is {state}")
    if moved.has_key and job.unique is not None:
        if (holder := store.unique.get(job.unique.key)) is not None:
            raise KeyConflict(job.unique.key, holder, "unique")
        store.unique[job.unique.key] = job.id
    row = _row_of(_in_line(moved) if _is_gate_full(store, moved) else moved)
    store.add_row(row)
    _raise_numbers(store, Numbers(row.number, row.ready_number or 0))
    if job.gate is not None and row.has_place:
        store.places[job.gate.key] = store.places.get(job.gate.key, 0) + 1
    elif job.gate is not None and row.status == "waiting" and row.needs_left == 0:
        lifecycle.join_line(store, row)
    return True


def _is_gate_full(store: Store, moved: MovedJob) -> bool:
    gate = moved.job.gate
    return gate is not None and moved.status in _PLACED and store.places.get(gate.key, 0) >= gate.capacity


def _in_line(moved: MovedJob) -> MovedJob:
    """A job of this store has the place."""
    return replace(moved, status="waiting", ready_number=None, needs_left=0)


def _row_of(moved: MovedJob) -> Row:
    return Row(
        job=moved.job,
        number=moved.number,
        status=moved.status,
        created_at_ms=moved.created_at_ms,
        run_at_ms=moved.run_at_ms,
        expires_at_ms=moved.expires_at_ms,
        ready_number=moved.ready_number,
        attempt=moved.attempt,
        lost=moved.lost,
        fence=moved.fence,
        generation=moved.generation,
        started_at_ms=moved.started_at_ms,
        completed_at_ms=moved.completed_at_ms,
        reason=moved.reason,
        needs_left=moved.needs_left,
        has_place=moved.job.gate is not None and moved.status in _PLACED,
        held=moved.held,
        cancel_requested=moved.cancel_requested,
        result=moved.result,
        errors=moved.errors,
    )


def _import_need(store: Store, need: MovedNeed) -> bool:
    for job_id in (need.job_id, need.parent_id):
        if job_id not in store.rows:
            raise UnknownDependency(need.job_id, job_id)
    if (need.parent_id, need.job_id) in store.edges:
        return False
    if not (store.rows[need.job_id].held or fence.starts_nothing(store)):
        raise InvalidState(f"a need of job {need.job_id!r} cannot be taken in: the job is not held")
    store.add_edge(need.parent_id, need.job_id, Dependency(need.parent_id, need.on), met=need.met)
    return True


_IMPORTS: dict[type[Moved], Callable[[Store, Any], bool]] = {
    Numbers: _raise_numbers,
    Limits: _import_limits,
    Schedule: _import_schedule,
    MovedFire: _import_fire,
    MovedState: _import_state,
    MovedStream: _import_stream,
    MovedRecord: _import_record,
    MovedLock: _import_lock,
    MovedKey: _import_key,
    MovedJob: _import_job,
    MovedNeed: _import_need,
}


# ── away ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def drop_part(store: Store, items: Sequence[Moved]) -> int:
    free = {item.job.id for item in items if isinstance(item, MovedJob) and _is_free(store, item.job.id)}
    return sum(_drop_one(store, item, free) for item in items)


def _is_free(store: Store, job_id: str) -> bool:
    """What another job waits for is not taken from it, unless all stands still."""
    return store.mode == "frozen" or job_id not in store.children


def _drop_one(store: Store, item: Moved, free: set[str]) -> bool:
    match item:
        case MovedJob():
            return item.job.id in free and _drop_job(store, item)
        case Numbers() | MovedNeed():
            return False
        case _:
            table, key, fits = _place_of(store, item)
            if key not in table or not fits(table[key]):
                return False
            table.drop(key)
            if table is store.limits:
                store.buckets.drop(key)  # what was saved up under a rate goes with it, and is not told elsewhere
            return True


def _place_of(store: Store, item: Moved) -> tuple[Table[Any, Any], Any, Callable[[Any], bool]]:
    """Where it would stand, and whether what stands there is the same."""
    match item:
        case Limits():
            return store.limits, (item.queue, item.lane), lambda found: found == item
        case Schedule():
            return store.schedules, item.id, lambda found: found == item
        case MovedFire():
            return store.fires, (item.schedule_id, item.nominal_ms), lambda _: True
        case MovedState():
            return store.cells, item.item.key, lambda found: found.item == item.item
        case MovedStream():
            return store.streams, item.stream, lambda found: found == item.seq
        case MovedRecord():
            return store.records, (item.stream, item.stored.seq), lambda found: found.stored == item.stored
        case MovedLock():
            return store.locks, item.name, lambda found: found.fence == item.fence
        case MovedKey():
            return store.kept, item.key, lambda found: found.job_id == item.job_id
        case _:
            raise AssertionError(f"{type(item).__name__} stands in no table of its own")


def _may_go(store: Store, row: Row) -> bool:
    return row.status != "active" and (row.held or store.mode == "frozen")


def _drop_job(store: Store, moved: MovedJob) -> bool:
    row = store.rows.get(moved.job.id)
    if row is None or row.job.digest != moved.job.digest or not _may_go(store, row):
        return False
    lifecycle.leave_line(store, row)
    if row.has_place and row.job.gate is not None:
        store.places[row.job.gate.key] -= 1
    store.drop_edges_of(row)
    for child_id in store.children.get(row.job.id, ()):
        store.drop_edge(row.job.id, child_id)
    store.drop_row(row)
    return True
