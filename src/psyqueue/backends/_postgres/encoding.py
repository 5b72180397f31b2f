"""What a call looks like on its way to a function: arrays of plain types, JSON for what is rare, bytes beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from psyqueue.backend import (
    NO_EFFECTS,
    Ack,
    AnyOutcome,
    Cancelled,
    Dead,
    Dependency,
    Effects,
    Filter,
    Gate,
    Idempotency,
    Keep,
    Limits,
    NewJob,
    Release,
    Retry,
    Snooze,
    Unique,
)
from psyqueue.errors import InvalidOption
from psyqueue.job import STATUSES, Status

NUMBER_OF: Final[dict[Status, int]] = {status: number for number, status in enumerate(STATUSES)}
_NULL: Final = b"null"


class Extras(Struct, frozen=True, array_like=True):
    """What few jobs have, as it was enqueued. One blob, so that the others pay one NULL for all of it."""

    schedule_id: str | None = None
    unique: Unique | None = None
    idempotency: Idempotency | None = None
    gate: Gate | None = None
    needs: tuple[Dependency, ...] = ()


NO_EXTRAS: Final = Extras()
_encode_extras = msgspec.msgpack.Encoder().encode
decode_extras = msgspec.msgpack.Decoder(Extras).decode
_decode_place = msgspec.json.Decoder(tuple[str, int, int, int]).decode
_to_json = msgspec.json.Encoder().encode


def json_text(value: Any) -> str:
    return _to_json(value).decode()


def extras_of(job: NewJob) -> bytes | None:
    if is_simple(job) and job.schedule_id is None:
        return None
    return _encode_extras(Extras(job.schedule_id, job.unique, job.idempotency, job.gate, job.needs))


def is_simple(job: NewJob) -> bool:
    """Nothing outside its own row has to be looked at when it comes in."""
    return job.unique is None and job.idempotency is None and job.gate is None and not job.needs


class Cargo:
    """The bytes that the JSON of a call speaks of by their place, and the keys that it names."""

    def __init__(self) -> None:
        self.parts: list[bytes | None] = []
        self._keys: set[str] = set()

    def add(self, *parts: bytes | None) -> int:
        """The place of the first."""
        self.parts += parts
        return len(self.parts) - len(parts) + 1

    def name(self, kind: str, key: str) -> None:
        self._keys.add(f" {kind} {key}")

    @property
    def keys(self) -> list[str] | None:
        return sorted(self._keys) or None


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
Columns = tuple[Any, ...]
_NO_COLUMNS: Final[Columns] = (None,) * 14


def columns_of(jobs: Sequence[NewJob]) -> Columns:
    """Jobs that are simple, as arrays; None instead of an array where all have the default.

    One element where queue, name or cold are those of all: each costs something here, on the way, and in the server.
    """
    return (
        [job.id for job in jobs],
        _alike([job.queue for job in jobs]),
        _alike([job.name for job in jobs]),
        [job.payload for job in jobs],
        _alike([job.cold for job in jobs]),
        [job.digest for job in jobs],
        _extras_of_simple(jobs),
        unless_all("", [job.lane for job in jobs]),
        unless_all(0, [job.priority for job in jobs]),
        unless_all(3, [job.max_retries for job in jobs]),
        unless_all(2, [job.max_lost for job in jobs]),
        unless_all(0, [job.delay_ms for job in jobs]),
        unless_all(None, [job.run_at_ms for job in jobs]),
        unless_all(None, [job.expires_in_ms for job in jobs]),
    )


def _alike(values: list[Any]) -> list[Any]:
    return values[:1] if values and values.count(values[0]) == len(values) else values


def _extras_of_simple(jobs: Sequence[NewJob]) -> list[bytes | None] | None:
    if unless_all(None, [job.schedule_id for job in jobs]) is None:
        return None
    return [extras_of(job) for job in jobs]


def unless_all(default: Any, values: list[Any]) -> list[Any] | None:
    return None if values.count(default) == len(values) else values


def add_jobs(jobs: Sequence[NewJob], cargo: Cargo) -> list[dict[str, Any]]:
    return [_job_of(job, cargo) for job in jobs]


def lone_of(jobs: Sequence[NewJob], effects: Effects) -> tuple[Any, ...] | None:
    """The arguments of `enqueue_lone` behind the op; None: more is to be said than its arguments can."""
    if len(jobs) != 1 or effects or not is_simple(job := jobs[0]):
        return None
    extras = None if job.schedule_id is None else extras_of(job)
    return (
        job.id, job.queue, job.name, job.payload, job.cold, job.digest, extras, job.lane, job.priority, job.max_retries,
        job.max_lost, job.delay_ms, job.run_at_ms, job.expires_in_ms,
    )  # fmt: skip


def intake_of(jobs: Sequence[NewJob], effects: Effects) -> tuple[Any, ...]:
    """The arguments of `enqueue` behind the op."""
    cargo = Cargo()
    if all(map(is_simple, jobs)):
        columns, others = columns_of(jobs), None
    else:
        columns, others = _NO_COLUMNS, json_text(add_jobs(jobs, cargo))
    also = effects_of(effects, cargo)
    return (*columns, others, cargo.parts or None, also, cargo.keys)


def _job_of(job: NewJob, cargo: Cargo) -> dict[str, Any]:
    made: dict[str, Any] = {"id": job.id, "queue": job.queue, "name": job.name}
    plain = {
        "lane": job.lane or None,
        "priority": job.priority or None,
        "max_retries": None if job.max_retries == 3 else job.max_retries,
        "max_lost": None if job.max_lost == 2 else job.max_lost,
        "delay": job.delay_ms or None,
        "run_at": job.run_at_ms,
        "expires_in": job.expires_in_ms,
    }
    made |= {name: value for name, value in plain.items() if value is not None}
    if job.unique is not None:
        made["unique"] = [job.unique.key, mask_of(job.unique.while_), job.unique.on_conflict]
        cargo.name("u", job.unique.key)
    if job.idempotency is not None:
        made["idempotency"] = [job.idempotency.key, job.idempotency.window_ms]
        cargo.name("i", job.idempotency.key)
    if job.gate is not None:
        made["gate"] = [job.gate.key, job.gate.capacity]
        cargo.name("g", job.gate.key)
    if job.needs:
        made["needs"] = [[need.job_id, mask_of(need.on)] for need in job.needs]
    made["at"] = cargo.add(job.payload, job.cold, job.digest, extras_of(job))
    return made


def mask_of(statuses: Sequence[Status]) -> int:
    """A bit for each status."""
    return sum({1 << NUMBER_OF[status] for status in statuses})


# ── effects ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def effects_of(effects: Effects, cargo: Cargo) -> str | None:
    return json_text(_effects_of(effects, cargo)) if effects else None


def _effects_of(effects: Effects, cargo: Cargo) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if effects.writes:
        made["writes"] = [
            [
                write.kind,
                write.key,
                cargo.add(write.value),
                str(write.number),
                write.expected,
                write.ttl_ms,
                write.capacity,
                write.refill_per_minute,
            ]
            for write in effects.writes
        ]
        for write in effects.writes:
            cargo.name("s", write.key)
    if effects.jobs:
        made["jobs"] = add_jobs(effects.jobs, cargo)
    if effects.records:
        made["records"] = [[each.stream, cargo.add(each.body), each.ttl_ms] for each in effects.records]
    return made


# ── outcomes ──────────────────────────────────────────────────────────────────────────────────────────────────────────
class Outcomes:
    """The outcomes of a call: plain acks as arrays, the rest as JSON. `places`: of the acks in the call."""

    def __init__(self, outcomes: Sequence[AnyOutcome]) -> None:
        self.count = len(outcomes)
        cargo = Cargo()
        # With effects, or two outcomes of one job, their order matters, so that all of them go one by one.
        is_split = all(outcome.effects is NO_EFFECTS or not outcome.effects for outcome in outcomes)
        is_split = is_split and len({outcome.job_id for outcome in outcomes}) == len(outcomes)
        self.places = [number for number, each in enumerate(outcomes) if is_split and type(each) is Ack]
        acks = [each for each in outcomes if type(each) is Ack] if is_split else []
        others = [each for each in outcomes if not (is_split and type(each) is Ack)]
        self.arguments: tuple[Any, ...] = (
            *(_acks_of(acks) if acks else (None,) * 4),
            json_text([_outcome_of(each, cargo) for each in others]) if others else None,
            cargo.parts or None,
            cargo.keys,
        )


def _acks_of(acks: Sequence[Ack]) -> tuple[Any, ...]:
    tokens = [token_of(each.completion_token) for each in acks]
    return (
        [each.job_id for each in acks],
        [number for number, _ in tokens],
        [seed for _, seed in tokens],
        [None if each.result == _NULL else each.result for each in acks],
    )


def token_of(token: str) -> tuple[int, str]:
    """Number of the job and seed of the fetch; 0 is nobody's number."""
    number, _, seed = token.partition(".")
    return (int(number) if number.isascii() and number.isdigit() and len(number) < 19 else 0), seed


def _outcome_of(outcome: AnyOutcome, cargo: Cargo) -> dict[str, Any]:
    number, seed = token_of(outcome.completion_token)
    made: dict[str, Any] = {"id": outcome.job_id, "n": number, "seed": seed}
    match outcome:
        case Ack(result=result):
            made |= {"kind": "a", "at": cargo.add(result)}
        case Retry(error=error, delay_ms=delay_ms):
            made |= {"kind": "r", "at": cargo.add(error), "delay": delay_ms}
        case Dead(error=error, reason=reason):
            made |= {"kind": "d", "at": cargo.add(error), "reason": reason}
        case Snooze(delay_ms=delay_ms, reason=reason):
            made |= {"kind": "s", "delay": delay_ms, "reason": reason}
        case Release():
            made["kind"] = "l"
        case Cancelled(reason=reason):
            made |= {"kind": "c", "reason": reason}
        case Keep():
            made["kind"] = "k"
    if outcome.effects:
        made["effects"] = _effects_of(outcome.effects, cargo)
    return made


# ── operating ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def filter_of(where: Filter) -> str:
    plain: dict[str, Any] = {
        "ids": list(dict.fromkeys(where.ids)),
        "queues": where.queues,
        "statuses": [NUMBER_OF[status] for status in where.statuses],
        "names": where.names,
        "lanes": where.lanes,
        # A NUL, which jsonb cannot hold, is in no job; nor is what we look for instead: JSON escapes both.
        "text": where.text.replace("\0", "\x01"),
        "reason": where.reason,
    }
    made = {name: value for name, value in plain.items() if value}
    instants = {
        "created_from": where.created_from_ms,
        "created_to": where.created_to_ms,
        "ended_before": where.ended_before_ms,
    }
    return json_text(made | {name: at_ms for name, at_ms in instants.items() if at_ms is not None})


def place_of(cursor: str | None) -> str | None:
    """The cursor of a walk over jobs: queue, number of the status, key, number of the job. Raises InvalidOption."""
    if cursor is not None:
        try:
            _, status, *_ = _decode_place(cursor)
            STATUSES[status]
        except (msgspec.MsgspecError, IndexError) as exc:
            raise InvalidOption("cursor", cursor, "is not one that this store gave out") from exc
    return cursor


def limits_arrays(limits: Sequence[Limits]) -> tuple[Any, ...]:
    last = list({(each.queue, each.lane): each for each in limits}.values())
    ended, dead = [each.retain_ended for each in last], [each.retain_dead for each in last]
    return (
        [each.queue for each in last],
        [each.lane for each in last],
        [each.paused_until_ms for each in last],
        [each.weight for each in last],
        [each.active_max for each in last],
        [each.starts_per_minute for each in last],
        [each.starts_burst for each in last],
        [each.pending_max for each in last],
        [each[0] if each else None for each in ended],
        [each[1] if each else None for each in ended],
        [each[0] if each else None for each in dead],
        [each[1] if each else None for each in dead],
    )
