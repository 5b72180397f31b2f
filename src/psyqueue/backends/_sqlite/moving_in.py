"""Moving house, the way in, and away: what another store exported, written and forgotten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from psyqueue.backend import (
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
    Schedule,
)
from psyqueue.backends._sqlite.lifecycle import is_needed, places
from psyqueue.backends._sqlite.limits import limited, put_limits
from psyqueue.backends._sqlite.rows import (
    GATED,
    KEYED,
    NEEDED,
    NEEDY,
    Row,
    encode_extras,
    erase,
    find,
    mask_of,
)
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import ACTIVE, NUMBER_OF, PENDING, SCHEDULED, Step
from psyqueue.errors import IdConflict, InvalidState, KeyConflict, NamespaceMoved, UnknownDependency

_to_json = msgspec.json.encode


# ── in ────────────────────────────────────────────────────────────────────────────────────────────────────────────────
def import_part(step: Step, items: Sequence[Moved]) -> int:
    if step.mode == "moved":
        raise NamespaceMoved(step.moved_to)
    new, jobs = 0, [item for item in items if type(item) is MovedJob]
    if jobs:
        new = _import_jobs(step, jobs)
    for item in items:
        if type(item) is not MovedJob:
            if not step.starts_nothing and type(item) is not MovedNeed:
                raise InvalidState(f"{type(item).__name__}: is only taken while the namespace is frozen or filling")
            new += _IMPORTS[type(item)](step, item)
    return new


def _import_jobs(step: Step, jobs: Sequence[MovedJob]) -> int:
    """As many statements as there are kinds of rows, not as there are jobs."""
    newcomers = [_at_gate(step, moved) for moved in _newcomers(step, jobs)]
    for moved in newcomers:
        if moved.has_key and moved.job.unique is not None:
            _take_unique(step, moved.job.unique.key, moved)
    many = step.connection.executemany
    many(SQL["import_part.bodies"], [_body(moved) for moved in newcomers])
    many(SQL["import_part.jobs"], [_row(moved) for moved in newcomers])
    results = [(moved.number, moved.result) for moved in newcomers if moved.result not in (None, b"null")]
    many(SQL["rows.put_result"], results)
    many(SQL["import_part.errors"], [each for moved in newcomers for each in _errors(moved)])
    for moved in newcomers:
        step.made, step.ready = max(step.made, moved.number), max(step.ready, moved.ready_number or 0)
        status = NUMBER_OF[moved.status]
        step.count(moved.job.queue, moved.job.lane, status, 1)
        if status in (SCHEDULED, PENDING):
            step.touched.add(moved.job.queue)
    return len(newcomers)


def _at_gate(step: Step, moved: MovedJob) -> MovedJob:
    """It takes its place; in line if jobs of this store have them all."""
    gate = moved.job.gate
    if gate is None or NUMBER_OF[moved.status] not in (SCHEDULED, PENDING):
        return moved
    if places(step, gate.key) >= gate.capacity:
        return replace(moved, status="waiting", ready_number=None, needs_left=0)
    step.run(SQL["links.add_place"], (gate.key,))
    return moved


def _newcomers(step: Step, jobs: Sequence[MovedJob]) -> list[MovedJob]:
    """Those that are not there yet, each once."""
    ids = _to_json([moved.job.id for moved in jobs]).decode()
    known: dict[str, bytes] = dict(step.run(SQL["import_part.known"], (ids,)).fetchall())
    newcomers = []
    for moved in jobs:
        job = moved.job
        if job.id in known:
            if known[job.id] != job.digest:
                raise IdConflict(job.id)
            continue
        if moved.status == "active" or not (moved.held or step.starts_nothing):
            is_free = "not held, and the namespace is neither frozen nor filling"
            state = "active" if moved.status == "active" else is_free
            raise InvalidState(f"job {job.id!r} cannot be taken in: it is {state}")
        known[job.id] = job.digest
        newcomers.append(moved)
    return newcomers


def _take_unique(step: Step, key: str, moved: MovedJob) -> None:
    holder = step.run(SQL["links.unique_holder"], (key,)).fetchone()
    if holder is not None:
        (holder_id,) = step.run(SQL["import_part.id_of"], holder).fetchone()
        raise KeyConflict(key, holder_id, "unique")
    step.run(SQL["links.take_unique"], (key, moved.number))


def _body(moved: MovedJob) -> tuple[Any, ...]:
    job = moved.job
    return (
        moved.number, job.id, job.name, job.max_retries, job.max_lost, moved.created_at_ms, job.digest,
        encode_extras(job), job.cold, job.payload,
    )  # fmt: skip


def _row(moved: MovedJob) -> tuple[Any, ...]:
    job, status = moved.job, NUMBER_OF[moved.status]
    links = (
        KEYED * (job.unique is not None)
        | GATED * (job.gate is not None)
        | NEEDY * bool(job.needs)
        | NEEDED * moved.is_needed
    )
    has_place = job.gate is not None and status in (SCHEDULED, PENDING)
    gate = job.gate.key if job.gate is not None else None
    return (
        moved.number, job.queue, job.lane, status, job.priority, moved.ready_number, moved.attempt, moved.lost,
        moved.fence, moved.generation, links, moved.held, moved.cancel_requested, moved.needs_left, has_place,
        moved.run_at_ms, moved.expires_at_ms, moved.started_at_ms, moved.completed_at_ms, moved.reason, gate,
    )  # fmt: skip


def _errors(moved: MovedJob) -> list[tuple[int, int, bytes]]:
    return [(moved.number, number, error) for number, error in enumerate(moved.errors, 1)]


def _import_need(step: Step, need: MovedNeed) -> int:
    child, parent = find(step, need.job_id), find(step, need.parent_id)
    if child is None or parent is None:
        raise UnknownDependency(need.job_id, need.job_id if child is None else need.parent_id)
    if not (child.held or step.starts_nothing):
        raise InvalidState(f"a need of job {need.job_id!r} cannot be taken in: the job is not held")
    step.run(SQL["links.mark_needed"], (NEEDED, parent.n))
    return step.run(SQL["import_part.needs"], (parent.n, child.n, mask_of(need.on), need.met)).rowcount


def _raise_numbers(step: Step, numbers: Numbers) -> int:
    before = (step.made, step.ready)
    step.made, step.ready = max(step.made, numbers.made), max(step.ready, numbers.ready)
    if before != (step.made, step.ready):
        step.note_clock()
        return 1
    return 0


def _import_limits(step: Step, limits: Limits) -> int:
    if limited(step, limits.queue, limits.lane) is not None:
        return 0
    put_limits(step, limits)
    step.touched.add(limits.queue)
    return 1


def _import_key(step: Step, key: MovedKey) -> int:
    values = (key.key, key.job_id, key.digest, step.mono_ms + key.left_ms, step.mono_ms)
    if step.run(SQL["import_part.keys"], values).rowcount:
        return 1
    holder_id = step.run(SQL["links.kept"], (key.key,)).fetchone()[0]
    if holder_id != key.job_id:
        raise KeyConflict(key.key, holder_id, "idempotency")
    return 0


def _import_state(step: Step, moved: MovedState) -> int:
    item = moved.item
    at_mono_ms = None if moved.level is None else step.mono_ms - moved.age_ms
    values = (item.key, item.value, item.version, _until(step, moved.left_ms), moved.level, at_mono_ms)
    return step.run(SQL["import_part.state"], values).rowcount


def _import_stream(step: Step, moved: MovedStream) -> int:
    return step.run(SQL["import_part.streams"], (moved.stream, moved.seq)).rowcount


def _import_record(step: Step, record: MovedRecord) -> int:
    stored = record.stored
    values = (record.stream, stored.seq, stored.at_ms, _until(step, record.left_ms), stored.body)
    return step.run(SQL["import_part.records"], values).rowcount


def _import_lock(step: Step, lock: MovedLock) -> int:
    return step.run(
        SQL["import_part.locks"], (lock.name, lock.holder, lock.fence, step.mono_ms + lock.left_ms)
    ).rowcount


def _import_schedule(step: Step, schedule: Schedule) -> int:
    values = (schedule.id, schedule.spec, schedule.version, schedule.next_at_ms, schedule.last_nominal_ms)
    return step.run(SQL["import_part.schedules"], (*values, schedule.paused)).rowcount


def _import_fire(step: Step, fire: MovedFire) -> int:
    return step.run(SQL["operate.fire"], (fire.schedule_id, fire.nominal_ms, step.mono_ms)).rowcount


def _until(step: Step, left_ms: int | None) -> int | None:
    return None if left_ms is None else step.mono_ms + left_ms


_IMPORTS: dict[type[Moved], Callable[[Step, Any], int]] = {
    Numbers: _raise_numbers,
    Limits: _import_limits,
    Schedule: _import_schedule,
    MovedFire: _import_fire,
    MovedState: _import_state,
    MovedStream: _import_stream,
    MovedRecord: _import_record,
    MovedLock: _import_lock,
    MovedKey: _import_key,
    MovedNeed: _import_need,
}


# ── away ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def drop_part(step: Step, items: Sequence[Moved]) -> int:
    rows = [find(step, item.job.id) for item in items if type(item) is MovedJob]
    free = {row.id: row for row in rows if row is not None and _may_go(step, row)}
    return sum(_drop_one(step, item, free) for item in items)


def _drop_one(step: Step, item: Moved, free: dict[str, Row]) -> int:
    match item:
        case MovedJob():
            return _drop_job(step, item, free)
        case Numbers() | MovedNeed():
            return 0
        case Limits():
            found = limited(step, item.queue, item.lane)
            if found is None or found.limits != item:
                return 0
        case _:
            pass
    kind, values = _same(item)
    return step.run(SQL[f"drop_part.{kind}"], values).rowcount


def _same(item: Moved) -> tuple[str, tuple[Any, ...]]:
    """The statement that deletes it, and what has to be equal."""
    match item:
        case Limits():
            return "limits", (item.queue, item.lane is not None, item.lane or "")
        case Schedule():
            return "schedules", (item.id, item.spec, item.version)
        case MovedFire():
            return "fires", (item.schedule_id, item.nominal_ms)
        case MovedState():
            return "state", (item.item.key, item.item.value, item.item.version)
        case MovedStream():
            return "streams", (item.stream, item.seq)
        case MovedRecord():
            return "records", (item.stream, item.stored.seq, item.stored.at_ms, item.stored.body)
        case MovedLock():
            return "locks", (item.name, item.fence)
        case MovedKey():
            return "keys", (item.key, item.job_id)
        case _:
            raise AssertionError(f"{type(item).__name__} stands in no table of its own")


def _may_go(step: Step, row: Row) -> bool:
    """What another job waits for is not taken from it, unless all stands still."""
    is_free = step.mode == "frozen" or (bool(row.held) and not (row.links & NEEDED and is_needed(step, row)))
    return row.status != ACTIVE and is_free


def _drop_job(step: Step, moved: MovedJob, free: dict[str, Row]) -> int:
    row = free.get(moved.job.id)
    if row is None or row.digest != moved.job.digest:
        return 0
    if row.has_place:
        step.run(SQL["links.free_place"], (row.gate,))
        step.run(SQL["links.drop_gate"], (row.gate,))
    if row.links & NEEDY:
        step.run(SQL["links.drop_edges"], (row.n,))
    if row.links & NEEDED:
        step.run(SQL["drop_part.edges_to"], (row.n,))
    erase(step, row)
    del free[row.id]
    return 1
