"""Moving house, the way out: everything the file knows, page by page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from psyqueue.backend import (
    Exported,
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
)
from psyqueue.backend.bounds import fitting
from psyqueue.backend.reading import Item, Stored
from psyqueue.backends._sqlite.limits import limits_of
from psyqueue.backends._sqlite.reading import schedule_of
from psyqueue.backends._sqlite.rows import NO_EXTRAS, Extras, decode_extras, statuses_of
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import COMPLETED, PENDING, WAITING, Step
from psyqueue.errors import InvalidOption
from psyqueue.job import STATUSES

_Place: TypeAlias = tuple[Any, ...]
"""The key of the last item of a page."""
_Rows: TypeAlias = Sequence[tuple[Any, ...]]
_FIRST: dict[str, _Place] = {
    "limits": ("", -1, ""),
    "schedules": ("",),
    "fires": ("", -(1 << 62)),
    "state": ("",),
    "streams": ("",),
    "records": ("", 0),
    "locks": ("",),
    "keys": ("",),
    "jobs": (0,),
    "needs": (0, 0),
}
_to_json = msgspec.json.encode
_WITH_CLOCK = ("state", "keys")


def export_part(step: Step, part: Part, cursor: str | None, limit: int) -> Exported:
    if part == "numbers":
        return Exported((Numbers(step.made, step.ready),), None)
    place = _FIRST[part] if cursor is None else _place_in(cursor, _FIRST[part])
    clock = (step.mono_ms,) if part in _WITH_CLOCK else ()
    rows = step.run(SQL[f"export_part.{part}"], (*place, *clock, limit)).fetchall()
    items = _MAKE[part](step, rows)
    count = fitting(items)
    is_last = len(rows) < limit and count == len(rows)
    last = None if is_last else _to_json(rows[count - 1][: len(place)]).decode()
    return Exported(tuple(items[:count]), last)


def _place_in(cursor: str, like: _Place) -> _Place:
    try:
        place = msgspec.json.decode(cursor, type=tuple[str | int, ...])
    except msgspec.MsgspecError as exc:
        raise InvalidOption("cursor", cursor, "is not one that this store gave out") from exc
    if [type(each) for each in place] != [type(each) for each in like]:
        raise InvalidOption("cursor", cursor, "is of another part")
    return place


def _left_ms(step: Step, expires_mono_ms: int | None) -> int | None:
    """What is left of a time that runs; 0: it is over, None: it never ends."""
    return None if expires_mono_ms is None else max(0, expires_mono_ms - step.mono_ms)


def _state(step: Step, rows: _Rows) -> list[Moved]:
    return [
        MovedState(
            item=Item(key, value, version),
            left_ms=_left_ms(step, expires_mono_ms),
            level=level,
            age_ms=0 if level is None else step.mono_ms - level_mono_ms,
        )
        for key, value, version, expires_mono_ms, level, level_mono_ms in rows
    ]


def _records(step: Step, rows: _Rows) -> list[Moved]:
    return [
        MovedRecord(stream, Stored(seq, at_ms, body), _left_ms(step, expires_mono_ms))
        for stream, seq, at_ms, body, expires_mono_ms in rows
    ]


def _locks(step: Step, rows: _Rows) -> list[Moved]:
    return [MovedLock(name, holder, fence, max(0, until - step.mono_ms)) for name, holder, fence, until in rows]


def _keys(step: Step, rows: _Rows) -> list[Moved]:
    return [MovedKey(key, job_id, digest, until - step.mono_ms) for key, job_id, digest, until in rows]


def _needs(_: Step, rows: _Rows) -> list[Moved]:
    return [MovedNeed(child, parent, statuses_of(mask), bool(met)) for _, _, mask, met, parent, child in rows]


class _Past(Struct, array_like=True):
    """What distinguishes a job from one that was just enqueued."""

    status: int
    lane: str
    priority: int
    max_retries: int
    max_lost: int
    attempt: int
    lost: int
    fence: int
    generation: int
    needs_left: int
    held: int
    cancel_requested: int
    is_needed: int
    reason: str
    started_at_ms: int | None
    completed_at_ms: int | None
    run_at_ms: int
    expires_at_ms: int | None


_past_of = msgspec.json.Decoder(_Past).decode


def _jobs(step: Step, rows: _Rows) -> list[Moved]:
    if not rows:
        return []
    errors: dict[int, list[bytes]] = {}
    for n, error in step.run(SQL["export_part.errors"], (rows[0][0], rows[-1][0])):
        errors.setdefault(n, []).append(error)
    extras = {n: decode_extras(packed) for n, *_, packed, _, _ in rows if packed is not None}
    keys = [each.unique.key for each in extras.values() if each.unique is not None]
    holders = {n for (n,) in step.run(SQL["export_part.key_holders"], (_to_json(keys).decode(),))} if keys else set()
    jobs: list[Moved] = []
    for n, job_id, queue, name, created_at_ms, ready_number, digest, cold, payload, _, result, past in rows:
        moved = MovedJob(
            job=NewJob(
                id=job_id, queue=queue, name=name, payload=payload, cold=cold, digest=digest, run_at_ms=created_at_ms
            ),
            number=n,
            ready_number=ready_number,
            created_at_ms=created_at_ms,
            run_at_ms=created_at_ms,
        )
        if past is not None:
            moved = _with_past(moved, _past_of(past), extras.get(n, NO_EXTRAS), result)
            moved = replace(moved, has_key=n in holders, errors=tuple(errors.get(n, ())))
        jobs.append(moved)
    return jobs


def _with_past(moved: MovedJob, past: _Past, extras: Extras, result: bytes | None) -> MovedJob:
    return replace(
        moved,
        job=replace(
            moved.job,
            lane=past.lane,
            priority=past.priority,
            max_retries=past.max_retries,
            max_lost=past.max_lost,
            run_at_ms=past.run_at_ms,
            schedule_id=extras.schedule_id,
            unique=extras.unique,
            idempotency=extras.idempotency,
            gate=extras.gate,
            needs=extras.needs,
        ),
        ready_number=moved.ready_number if past.status == PENDING else None,
        run_at_ms=past.run_at_ms,
        status=STATUSES[past.status],
        attempt=past.attempt,
        lost=past.lost,
        fence=past.fence,
        generation=past.generation,
        needs_left=past.needs_left if past.status == WAITING else 0,
        held=bool(past.held),
        cancel_requested=bool(past.cancel_requested),
        is_needed=bool(past.is_needed),
        reason=past.reason,
        started_at_ms=past.started_at_ms,
        completed_at_ms=past.completed_at_ms,
        expires_at_ms=past.expires_at_ms,
        result=b"null" if result is None and past.status == COMPLETED else result,
    )


_MAKE: dict[Part, Callable[[Step, _Rows], list[Moved]]] = {
    "limits": lambda _, rows: [limits_of(row) for row in rows],
    "schedules": lambda _, rows: [schedule_of(row) for row in rows],
    "fires": lambda _, rows: [MovedFire(*row) for row in rows],
    "state": _state,
    "streams": lambda _, rows: [MovedStream(*row) for row in rows],
    "records": _records,
    "locks": _locks,
    "keys": _keys,
    "jobs": _jobs,
    "needs": _needs,
}
