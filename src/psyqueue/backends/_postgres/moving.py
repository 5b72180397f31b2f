"""Moving house: items of the seam as arguments of `import_part` and `drop_part`, rows of `export_part` as items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from psyqueue.backend import (
    Exported,
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
    NewJob,
    Numbers,
    Part,
    Schedule,
    Stored,
)
from psyqueue.backends._postgres.encoding import (
    NUMBER_OF,
    Cargo,
    Extras,
    decode_extras,
    extras_of,
    json_text,
    mask_of,
    unless_all,
)
from psyqueue.errors import IdConflict, InvalidOption
from psyqueue.job import STATUSES, Status

_GATE_MAX: Final = (1 << 31) - 1
_ACTIVE: Final = NUMBER_OF["active"]
_UNIQUE, _GATE, _NEEDS = 1, 2, 4
"""What `links` of a job says is to be looked at when it moves."""
_PART_OF: Final[dict[type[Moved], Part]] = {
    Numbers: "numbers",
    Limits: "limits",
    Schedule: "schedules",
    MovedFire: "fires",
    MovedState: "state",
    MovedStream: "streams",
    MovedRecord: "records",
    MovedLock: "locks",
    MovedKey: "keys",
    MovedNeed: "needs",
}
_NO_JOBS: Final = (None,) * 37


# ── in ────────────────────────────────────────────────────────────────────────────────────────────────────────────────
def import_arguments(items: Sequence[Moved]) -> tuple[Any, ...]:
    """Behind the op. Raises IdConflict for two jobs of one id that are not the same."""
    jobs, others, cargo = _sorted(items)
    columns = (*_columns_of(jobs, cargo), *_errors_of(jobs)) if jobs else _NO_JOBS
    return (*columns, others, cargo.parts or None, cargo.keys)


def drop_arguments(items: Sequence[Moved]) -> tuple[Any, ...]:
    """Behind the op. Raises as `import_arguments`."""
    jobs, others, cargo = _sorted(items)
    ids, digests = [each.job.id for each in jobs], [each.job.digest for each in jobs]
    return (ids or None, digests or None, others, cargo.parts or None, cargo.keys)


def _sorted(items: Sequence[Moved]) -> tuple[list[MovedJob], str | None, Cargo]:
    """The jobs, each once; what else there is, by part."""
    jobs: dict[str, MovedJob] = {}
    others: dict[Part, list[list[Any]]] = {}
    cargo = Cargo()
    for item in items:
        if isinstance(item, MovedJob):
            if jobs.setdefault(item.job.id, item).job.digest != item.job.digest:
                raise IdConflict(item.job.id)
        else:
            others.setdefault(_PART_OF[type(item)], []).append(_fields_of(item, cargo))
    return list(jobs.values()), json_text(others) if others else None, cargo


def _fields_of(item: Moved, cargo: Cargo) -> list[Any]:
    match item:
        case MovedState(item=found):
            cargo.name("s", found.key)
            return [found.key, found.version, item.left_ms, item.level, item.age_ms, cargo.add(found.value)]
        case MovedRecord(stored=found):
            return [item.stream, found.seq, found.at_ms, item.left_ms, cargo.add(found.body)]
        case Schedule():
            about = [item.version, item.next_at_ms, item.last_nominal_ms, item.paused]
            return [item.id, *about, cargo.add(item.spec)]
        case MovedKey():
            cargo.name("i", item.key)
            return [item.key, item.job_id, item.left_ms, cargo.add(item.digest)]
        case MovedLock():
            cargo.name("lock", item.name)
            return [item.name, item.holder, item.fence, item.left_ms]
        case MovedNeed():
            return [item.job_id, item.parent_id, mask_of(item.on), item.met]
        case _:
            return list(msgspec.structs.astuple(item))


def _columns_of(jobs: Sequence[MovedJob], cargo: Cargo) -> tuple[Any, ...]:
    news = [each.job for each in jobs]
    uniques, gates = [job.unique for job in news], [job.gate for job in news]
    for kind, keyed in (("u", uniques), ("g", gates)):
        for each in keyed:
            if each is not None:
                cargo.name(kind, each.key)
    return (
        [job.id for job in news],
        [each.number for each in jobs],
        [job.queue for job in news],
        [job.name for job in news],
        [job.payload for job in news],
        [job.cold for job in news],
        [job.digest for job in news],
        unless_all(None, [extras_of(job) for job in news]),
        [len(job.payload) + len(job.cold) for job in news],
        unless_all("", [job.lane for job in news]),
        unless_all(0, [job.priority for job in news]),
        unless_all(3, [job.max_retries for job in news]),
        unless_all(2, [job.max_lost for job in news]),
        unless_all(None, [each.ready_number for each in jobs]),
        [NUMBER_OF[each.status] for each in jobs],
        unless_all(0, [each.attempt for each in jobs]),
        unless_all(0, [each.lost for each in jobs]),
        unless_all(0, [each.fence for each in jobs]),
        unless_all(0, [each.generation for each in jobs]),
        unless_all(0, [each.needs_left for each in jobs]),
        unless_all(False, [each.held for each in jobs]),
        unless_all(False, [each.has_key for each in jobs]),
        unless_all("", [each.reason for each in jobs]),
        [each.created_at_ms for each in jobs],
        unless_all(None, [each.started_at_ms for each in jobs]),
        unless_all(None, [each.completed_at_ms for each in jobs]),
        [each.run_at_ms for each in jobs],
        unless_all(None, [each.expires_at_ms for each in jobs]),
        unless_all(None, [None if each.result == b"null" else each.result for each in jobs]),
        unless_all(0, [_links_of(job) for job in news]),
        unless_all(None, [None if each is None else each.key for each in uniques]),
        unless_all(None, [None if each is None else mask_of(each.while_) for each in uniques]),
        unless_all(None, [None if each is None else each.key for each in gates]),
        unless_all(None, [None if each is None else min(each.capacity, _GATE_MAX) for each in gates]),
    )


def _links_of(job: NewJob) -> int:
    return (job.unique is not None) * _UNIQUE + (job.gate is not None) * _GATE + bool(job.needs) * _NEEDS


def _errors_of(jobs: Sequence[MovedJob]) -> tuple[Any, ...]:
    found = [(each.number, place, error) for each in jobs for place, error in enumerate(each.errors, 1)]
    return tuple(map(list, zip(*found, strict=True))) if found else (None, None, None)


# ── out ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
_PLACES: Final[dict[Part, Any]] = {
    "numbers": tuple[()],
    "limits": tuple[str, bool, str],
    "schedules": tuple[str],
    "fires": tuple[str, int],
    "state": tuple[str],
    "streams": tuple[str],
    "records": tuple[str, int],
    "locks": tuple[str],
    "keys": tuple[str],
    "jobs": tuple[int],
    "needs": tuple[int, int],
}
"""What each part is in order of."""


def place_in(part: Part, cursor: str | None) -> str | None:
    """Raises InvalidOption."""
    if cursor is not None:
        try:
            msgspec.json.decode(cursor, type=_PLACES[part])
        except msgspec.MsgspecError as exc:
            raise InvalidOption("cursor", cursor, "is not one that this store gave out") from exc
    return cursor


def page_of(part: Part, rows: Sequence[Any]) -> Exported:
    if not rows:
        return Exported((), None)
    read = _READ[part]
    items = tuple([read(fields, cargo) for fields, cargo, _ in rows])
    is_more = rows[0][2] > len(rows)
    return Exported(items, json_text(_place_of(part, rows[-1][0])) if is_more else None)


def _place_of(part: Part, fields: str) -> list[Any]:
    found = msgspec.json.decode(fields, type=list[Any])
    if part == "limits":
        queue, lane, *_ = found
        return [queue, lane is not None, lane or ""]
    return found[: len(_PLACES[part].__args__)]


class _JobRow(Struct, array_like=True):
    number: int
    id: str
    queue: str
    name: str
    lane: str
    priority: int
    max_retries: int
    max_lost: int
    ready_number: int | None
    status: int
    attempt: int
    lost: int
    fence: int
    generation: int
    needs_left: int
    held: bool
    cancel_requested: bool
    has_key: bool
    is_needed: bool
    reason: str
    created_at_ms: int
    started_at_ms: int | None
    completed_at_ms: int | None
    run_at_ms: int
    expires_at_ms: int | None


_decode_job = msgspec.json.Decoder(_JobRow).decode
_decode = msgspec.json.Decoder(list[Any]).decode
_decode_limits = msgspec.json.Decoder(
    tuple[
        str, str | None, int | None, int, int | None, int | None, int, int | None, tuple[int, int] | None,
        tuple[int, int] | None,
    ]
).decode  # fmt: skip


def _job(fields: str, cargo: Sequence[Any]) -> MovedJob:
    row = _decode_job(fields)
    payload, cold, digest, packed, result, *errors = cargo
    job = NewJob(
        id=row.id,
        queue=row.queue,
        name=row.name,
        payload=payload,
        cold=cold,
        digest=digest,
        priority=row.priority,
        max_retries=row.max_retries,
        max_lost=row.max_lost,
        lane=row.lane,
        run_at_ms=row.run_at_ms,
    )
    moved = MovedJob(
        job=job if packed is None else _with_extras(job, decode_extras(packed)),
        number=row.number,
        ready_number=row.ready_number,
        created_at_ms=row.created_at_ms,
        run_at_ms=row.run_at_ms,
        status=STATUSES[row.status],
        held=row.held,
        cancel_requested=row.cancel_requested,
        is_needed=row.is_needed,
        has_key=row.has_key,
        needs_left=row.needs_left,
        expires_at_ms=row.expires_at_ms,
        reason=row.reason,
    )
    is_untouched = row.status < _ACTIVE and not (row.attempt or row.lost or row.fence or row.generation)
    return moved if is_untouched else _with_past(moved, row, result, errors)


def _with_extras(job: NewJob, extras: Extras) -> NewJob:
    return replace(
        job,
        schedule_id=extras.schedule_id,
        unique=extras.unique,
        idempotency=extras.idempotency,
        gate=extras.gate,
        needs=extras.needs,
    )


def _with_past(moved: MovedJob, row: _JobRow, result: bytes | None, errors: Sequence[bytes]) -> MovedJob:
    """Of one that was handed out, or has ended."""
    return replace(
        moved,
        attempt=row.attempt,
        lost=row.lost,
        fence=row.fence,
        generation=row.generation,
        started_at_ms=row.started_at_ms,
        completed_at_ms=row.completed_at_ms,
        result=b"null" if result is None and moved.status == "completed" else result,
        errors=tuple(errors),
    )


def _limits(fields: str, _: Any) -> Limits:
    queue, lane, paused, weight, active, rate, burst, pending, ended, dead = _decode_limits(fields)
    return Limits(
        queue=queue,
        lane=lane,
        paused_until_ms=paused,
        weight=weight,
        active_max=active,
        starts_per_minute=rate,
        starts_burst=burst,
        pending_max=pending,
        retain_ended=ended,
        retain_dead=dead,
    )


def _schedule(fields: str, cargo: Sequence[Any]) -> Schedule:
    schedule_id, version, next_ms, last_ms, is_paused = _decode(fields)
    return Schedule(
        id=schedule_id, spec=cargo[0], version=version, next_at_ms=next_ms, last_nominal_ms=last_ms, paused=is_paused
    )


def _state(fields: str, cargo: Sequence[Any]) -> MovedState:
    key, version, left_ms, level, age_ms = _decode(fields)
    return MovedState(item=Item(key, cargo[0], version), left_ms=left_ms, level=level, age_ms=age_ms)


def _record(fields: str, cargo: Sequence[Any]) -> MovedRecord:
    stream, seq, at_ms, left_ms = _decode(fields)
    return MovedRecord(stream, Stored(seq, at_ms, cargo[0]), left_ms)


def _key(fields: str, cargo: Sequence[Any]) -> MovedKey:
    key, job_id, left_ms = _decode(fields)
    return MovedKey(key, job_id, cargo[0], left_ms)


def _need(fields: str, _: Any) -> MovedNeed:
    _, _, job_id, parent_id, mask, is_met = _decode(fields)
    on: tuple[Status, ...] = tuple(status for number, status in enumerate(STATUSES) if mask >> number & 1)
    return MovedNeed(job_id, parent_id, on, is_met)


_READ: Final[dict[Part, Callable[[str, Any], Moved]]] = {
    "numbers": lambda fields, _: Numbers(*_decode(fields)),
    "limits": _limits,
    "schedules": _schedule,
    "fires": lambda fields, _: MovedFire(*_decode(fields)),
    "state": _state,
    "streams": lambda fields, _: MovedStream(*_decode(fields)),
    "records": _record,
    "locks": lambda fields, _: MovedLock(*_decode(fields)),
    "keys": _key,
    "jobs": _job,
    "needs": _need,
}
