"""Moving house: what the scripts are given of another store's items, and what they hand over of ours.

A job has one number here, from one sequence for creation and readiness. So a job as it is right after its enqueue takes
its ready number as the number of its creation: among such jobs the two orders are the same, and it is as plain as one
that was enqueued here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from psyqueue.backend import (
    Exported,
    Filter,
    Item,
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
    Stored,
)
from psyqueue.backends._redis.decoding import born, job_of, limits_of, new_job_of, schedule_of
from psyqueue.backends._redis.encoding import (
    INITIALS,
    Cargo,
    body_of,
    cursor_of,
    has_plain_rest,
    initials,
    or_false,
    plain_body_of,
    settings_of,
)
from psyqueue.errors import InvalidOption
from psyqueue.job import STATUSES, Status

_PLACED: Final = ("scheduled", "pending")
_Header = tuple[Any, ...]


# ── out ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
_position_in = msgspec.json.Decoder(tuple[str, ...]).decode


def position_of(part: Part, cursor: str | None) -> str:
    """The cursor as the script takes it. Raises InvalidOption for one that no export gave out."""
    if cursor is None:
        return "[]"
    try:
        position = _position_in(cursor)
    except msgspec.MsgspecError as exc:
        raise InvalidOption("cursor", cursor, "is not one that this store gave out") from exc
    if part in ("jobs", "needs") and position and position[0]:
        cursor_of(position[0], Filter())
    return cursor


def exported_of(part: Part, reply: list[Any]) -> Exported:
    items, cursor = reply
    found = _jobs_out(items) if part == "jobs" else map(_EXPORTED[part], items)
    return Exported(tuple(found), None if cursor is None else cursor.decode())


def _limits_out(reply: list[Any]) -> Limits:
    queue, lane, packed = reply
    return limits_of(queue.decode(), packed, None if lane is None else lane.decode())


def _state_out(reply: list[Any]) -> MovedState:
    key, value, version, left_ms, level, age_ms = reply
    return MovedState(item=Item(key.decode(), value, version), left_ms=left_ms, level=level, age_ms=age_ms)


def _record_out(reply: list[Any]) -> MovedRecord:
    stream, seq, at_ms, body, left_ms = reply
    return MovedRecord(stream.decode(), Stored(int(seq), int(at_ms), body), left_ms)


def _lock_out(reply: list[Any]) -> MovedLock:
    name, holder, fence, left_ms = reply
    return MovedLock(name.decode(), holder.decode(), fence, left_ms)


def _key_out(reply: list[Any]) -> MovedKey:
    key, job_id, digest, left_ms = reply
    return MovedKey(key.decode(), job_id.decode(), digest, left_ms)


def _need_out(reply: list[Any]) -> MovedNeed:
    child_id, parent_id, mask, is_met = reply
    letters = mask.decode()
    on: tuple[Status, ...] = tuple(status for status in STATUSES if INITIALS[status] in letters)
    return MovedNeed(child_id.decode(), parent_id.decode(), on, bool(is_met))


def _jobs_out(replies: list[list[Any]]) -> Iterator[MovedJob]:
    for reply in replies:
        if isinstance(reply[0], bytes):
            parts = iter(reply)
            yield from map(_plain_out, parts, parts)
        else:
            yield _job_out(reply)


def _job_out(reply: list[Any]) -> MovedJob:
    has_key, *rest = reply
    shared, fields = job_of(rest)
    return MovedJob(
        **shared,
        number=int(fields["number"]),
        needs_left=int(fields.get("needs_left", 0)) if shared["status"] == "waiting" else 0,
        has_key=bool(has_key),
        is_needed="kids" in fields,
    )


def _plain_out(raw_id: bytes, body: bytes) -> MovedJob:
    """Of a job as it was right after its enqueue the body says all."""
    number, created_ms = born(body)
    return MovedJob(
        job=new_job_of(raw_id, body, created_ms),
        number=number,
        ready_number=number,
        created_at_ms=created_ms,
        run_at_ms=created_ms,
    )


_EXPORTED: dict[Part, Callable[[Any], Moved]] = {
    "numbers": lambda number: Numbers(number, number),
    "limits": _limits_out,
    "schedules": schedule_of,
    "fires": lambda reply: MovedFire(reply[0].decode(), int(reply[1])),
    "state": _state_out,
    "streams": lambda reply: MovedStream(reply[0].decode(), int(reply[1])),
    "records": _record_out,
    "locks": _lock_out,
    "keys": _key_out,
    "needs": _need_out,
}


# ── in ────────────────────────────────────────────────────────────────────────────────────────────────────────────────
def add_moved(items: Sequence[Moved], cargo: Cargo) -> list[_Header]:
    """What import_part is given; the bytes go to the cargo."""
    if any(type(item) is MovedNeed for item in items):
        return [_imported(item, cargo) for item in items]
    plain: list[MovedJob] = []
    others: list[Moved] = []
    for item in items:
        if isinstance(item, MovedJob) and _is_plain(item):
            plain.append(item)
        else:
            others.append(item)
    headers = [_plain_in(plain, cargo)] if plain else []
    return headers + [_imported(item, cargo) for item in others]


def _imported(item: Moved, cargo: Cargo) -> _Header:
    match item:
        case MovedJob():
            return _job_in(item, cargo)
        case MovedNeed():
            return "need", item.job_id, item.parent_id, initials(item.on), int(item.met)
        case Numbers():
            return "numbers", max(item.made, item.ready)
        case MovedState(item=state):
            level = or_false(item.level)
            left_ms = or_false(item.left_ms)
            return "state", state.key, state.version, left_ms, level, item.age_ms, cargo.add(state.value)
        case MovedRecord(stored=stored):
            left_ms = or_false(item.left_ms)
            return "record", item.stream, stored.seq, stored.at_ms, left_ms, cargo.add(stored.body)
        case MovedLock():
            return "lock", item.name, item.holder, item.fence, item.left_ms
        case MovedKey():
            return "key", item.key, item.job_id, item.left_ms, cargo.add(item.digest)
        case _:
            return _same_both_ways(item, cargo)


def _same_both_ways(item: Limits | Schedule | MovedFire | MovedStream, cargo: Cargo) -> _Header:
    match item:
        case Limits():
            return "limits", item.queue, or_false(item.lane), settings_of(item)
        case Schedule():
            next_at_ms = or_false(item.next_at_ms)
            spec = cargo.add(item.spec)
            return "schedule", item.id, item.version, next_at_ms, item.last_nominal_ms, item.paused, spec
        case MovedFire():
            return "fire", item.schedule_id, item.nominal_ms
        case MovedStream():
            return "stream", item.stream, item.seq


def _is_plain(moved: MovedJob) -> bool:
    """It is as it was right after its enqueue, and has no more to it than queue, name and content."""
    return (
        moved.status == "pending"
        and not moved.held
        and moved.run_at_ms == moved.created_at_ms
        and moved.expires_at_ms is None
        and moved.started_at_ms is None
        and not (moved.attempt or moved.lost or moved.fence or moved.generation or moved.reason or moved.errors)
        and not moved.job.priority
        and has_plain_rest(moved.job)
    )


def _plain_in(plain: Sequence[MovedJob], cargo: Cargo) -> _Header:
    """One header for all, with a list of each field: the script would need a table for each job else."""
    jobs = [moved.job for moved in plain]
    numbers, created_at = [moved.ready_number for moved in plain], [moved.created_at_ms for moved in plain]
    fields = [job.id for job in jobs], [job.queue for job in jobs], [job.name for job in jobs], numbers, created_at
    return "plain", *fields, cargo.add_all(map(plain_body_of, jobs))


def _job_in(moved: MovedJob, cargo: Cargo) -> _Header:
    body = cargo.add(body_of(moved.job))
    result = moved.result if moved.result != b"null" else None
    errors = [cargo.add(error) for error in moved.errors] or False
    at = False if result is None else cargo.add(result)
    return "job", _row_of(moved), body, at, errors, int(moved.has_key)


def _row_of(moved: MovedJob) -> dict[str, Any]:
    """The fields of `j:<id>`; those with their default are left out (includes/rows.lua)."""
    job, is_pending = moved.job, moved.status == "pending"
    has_more = job.unique or job.gate or job.needs or job.lane or moved.errors or moved.needs_left
    fields: dict[str, Any] = {
        "id": job.id,
        "queue": job.queue,
        "name": job.name,
        "status": moved.status,
        "number": moved.number,
        "created_at": moved.created_at_ms,
        "ready": _unless(moved.ready_number if is_pending else None, moved.number),
        "priority": _unless(job.priority, 0),
        "attempt": _unless(moved.attempt, 0),
        "fence": _unless(moved.fence, moved.attempt),
        "lost": _unless(moved.lost, 0),
        "max_retries": _unless(job.max_retries, 3),
        "max_lost": _unless(job.max_lost, 2),
        "run_at": _unless(moved.run_at_ms, moved.created_at_ms),
        "expires_at": moved.expires_at_ms,
        "generation": _unless(moved.generation, 0),
        "started_at": moved.started_at_ms,
        "completed_at": moved.completed_at_ms,
        "needs_left": _unless(moved.needs_left, 0),
        "lane": _unless(job.lane, ""),
        "reason": _unless(moved.reason, ""),
        "held": _flag(moved.held),
        "cancel": _flag(moved.cancel_requested),
        "sorted": _flag(is_pending and (moved.held or job.priority != 0)),
        "special": _flag(has_more),
    }
    if job.unique is not None:
        fields |= {"unique": job.unique.key, "unique_while": initials(job.unique.while_)}
    if job.gate is not None:
        fields |= {"gate": job.gate.key, "gate_max": job.gate.capacity, "placed": _flag(moved.status in _PLACED)}
    return {name: value for name, value in fields.items() if value is not None}


def _unless(value: Any, default: Any) -> Any:
    return None if value == default else value


def _flag(is_set: object) -> str | None:
    return "1" if is_set else None


# ── away ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def add_dropped(items: Sequence[Moved], cargo: Cargo) -> list[_Header]:
    """What drop_part is given. Numbers stay, and needs go with their jobs alone."""
    return [_dropped(item, cargo) for item in items if not isinstance(item, Numbers | MovedNeed)]


_Dropped = Limits | Schedule | MovedFire | MovedState | MovedStream | MovedRecord | MovedLock | MovedKey | MovedJob


def _dropped(item: _Dropped, cargo: Cargo) -> _Header:
    match item:
        case MovedJob(job=job):
            return "job", job.id, cargo.add(job.digest)
        case MovedState(item=state):
            return "state", state.key, state.version, cargo.add(state.value)
        case MovedRecord(stored=stored):
            return "record", item.stream, stored.seq, stored.at_ms, cargo.add(stored.body)
        case MovedLock():
            return "lock", item.name, item.fence
        case MovedKey():
            return "key", item.key, item.job_id
        case _:
            return _same_both_ways(item, cargo)
