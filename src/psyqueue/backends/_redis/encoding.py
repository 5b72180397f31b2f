"""What a call looks like on its way to a script: packed headers, and bytes as arguments of their own.

Lua reads msgpack without its binary type, so everything that is bytes goes beside the header; `Cargo` gives each its
number among the script's arguments. False stands for what is absent: a nil would end a Lua table.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Struct

from psyqueue.backend import (
    Ack,
    AnyOutcome,
    Cancelled,
    Dead,
    Dependency,
    Effects,
    Fetch,
    Filter,
    Gate,
    Idempotency,
    Keep,
    Limits,
    NewJob,
    Op,
    Release,
    Retry,
    Snooze,
    StateWrite,
    Unique,
)
from psyqueue.errors import InvalidOption
from psyqueue.job import Status

LENGTHS: Final = struct.Struct("<III")
"""A body as we write it: the lengths of payload, cold and digest; these three; a packed `Rest`. The scripts put number
and instant of creation before it."""
INITIALS: dict[Status, str] = {
    "waiting": "w",
    "scheduled": "s",
    "pending": "p",
    "active": "a",
    "completed": "c",
    "dead": "d",
    "cancelled": "x",
}
pack = msgspec.msgpack.encode
NOTHING: Final = pack(False)


class Rest(Struct, frozen=True, array_like=True, kw_only=True):
    """What no script reads and no step changes. Trailing fields may be missing: they are the defaults."""

    queue: str
    name: str
    lane: str = ""
    max_retries: int = 3
    max_lost: int = 2
    schedule_id: str | None = None
    unique: Unique | None = None
    idempotency: Idempotency | None = None
    gate: Gate | None = None
    needs: tuple[Dependency, ...] = ()


class Cargo:
    """The bytes of a call. `first`: the number of the first of them among the script's arguments."""

    def __init__(self, first: int) -> None:
        self.arguments: list[bytes] = []
        self._first = first

    def add(self, data: bytes) -> int:
        self.arguments.append(data)
        return self._first + len(self.arguments) - 1

    def add_all(self, data: Iterable[bytes]) -> int:
        """The number of the first one; the others follow it."""
        first = self.next
        self.arguments.extend(data)
        return first

    @property
    def next(self) -> int:
        return self._first + len(self.arguments)


def op_of(op: Op) -> bytes:
    return f"{op.turn} {op.client}:{op.channel}".encode()


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
@lru_cache(1_024)
def _plain_rest(queue: str, name: str) -> bytes:
    return pack((queue, name))


def body_of(job: NewJob) -> bytes:
    return plain_body_of(job) if has_plain_rest(job) else _body(job, pack(_rest_of(job)))


def plain_body_of(job: NewJob) -> bytes:
    """As `body_of`, of one of which it is known that its rest is plain."""
    return _body(job, _plain_rest(job.queue, job.name))


def _body(job: NewJob, rest: bytes) -> bytes:
    payload, cold, digest = job.payload, job.cold, job.digest
    return b"".join((LENGTHS.pack(len(payload), len(cold), len(digest)), payload, cold, digest, rest))


def _rest_of(job: NewJob) -> Rest:
    return Rest(
        queue=job.queue,
        name=job.name,
        lane=job.lane,
        max_retries=job.max_retries,
        max_lost=job.max_lost,
        schedule_id=job.schedule_id,
        unique=job.unique,
        idempotency=job.idempotency,
        gate=job.gate,
        needs=job.needs,
    )


def _is_plain(job: NewJob) -> bool:
    return (
        not job.priority
        and not job.delay_ms
        and job.run_at_ms is None
        and job.expires_in_ms is None
        and has_plain_rest(job)
    )


def has_plain_rest(job: NewJob) -> bool:
    """Its `Rest` is queue and name alone."""
    return (
        job.max_retries == 3
        and job.max_lost == 2
        and not job.lane
        and job.schedule_id is None
        and job.unique is None
        and job.idempotency is None
        and job.gate is None
        and not job.needs
    )


def add_job(job: NewJob, cargo: Cargo) -> tuple[Any, ...]:
    """The header of a job; its body goes to the cargo."""
    if _is_plain(job):
        cargo.add(plain_body_of(job))
        return job.id, job.queue, job.name
    cargo.add(body_of(job))
    unique, idempotency, gate = job.unique, job.idempotency, job.gate
    return (
        job.id,
        job.queue,
        job.name,
        job.priority,
        job.max_retries,
        job.max_lost,
        job.lane,
        job.delay_ms,
        or_false(job.run_at_ms),
        or_false(job.expires_in_ms),
        (unique.key, initials(unique.while_), unique.on_conflict) if unique else False,
        (idempotency.key, idempotency.window_ms) if idempotency else False,
        (gate.key, gate.capacity) if gate else False,
        [(need.job_id, initials(need.on)) for need in job.needs] or False,
    )


def flat_jobs(jobs: Sequence[NewJob]) -> list[bytes | str | int] | None:
    """Plain jobs without headers, as includes/intake.lua takes them: how many, bodies, ids, runs of one queue and name.

    None: not all of them are plain, or two have one id.
    """
    flat: list[bytes | str | int] = [len(jobs)]
    ids: list[str] = []
    runs: list[str | int] = []
    queue = name = rest = None
    start = 0
    for index, job in enumerate(jobs):
        if not _is_plain(job):
            return None
        if rest is None or job.queue != queue or job.name != name:
            if index:
                runs.append(index - start)
            start, queue, name = index, job.queue, job.name
            runs += (queue, name)
            rest = _plain_rest(queue, name)
        flat.append(_body(job, rest))
        ids.append(job.id)
    return [*flat, *ids, *runs] if len(set(ids)) == len(ids) else None


def initials(statuses: Sequence[Status]) -> str:
    return "".join(INITIALS[status] for status in statuses)


def or_false(value: int | str | None) -> int | str | bool:
    return False if value is None else value


# ── effects ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def add_effects(effects: Effects, cargo: Cargo) -> Any:
    """The header of effects, False for none; their bytes go to the cargo."""
    if not effects:
        return False
    writes = [_write_of(write, cargo) for write in effects.writes]
    first = cargo.next
    jobs = [add_job(job, cargo) for job in effects.jobs]
    records = [(each.stream, cargo.add(each.body), or_false(each.ttl_ms)) for each in effects.records]
    return writes, jobs, first, records


def _write_of(write: StateWrite, cargo: Cargo) -> tuple[Any, ...]:
    return (
        write.kind,
        write.key,
        cargo.add(write.value),
        str(write.number),
        or_false(write.expected),
        or_false(write.ttl_ms),
        write.capacity,
        write.refill_per_minute,
    )


# ── outcomes ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def add_outcomes(outcomes: Sequence[AnyOutcome], cargo: Cargo) -> list[Any]:
    """The headers of outcomes; their bytes go to the cargo. Plain acks, nearly all of them, come in runs."""
    headers: list[Any] = []
    ids: list[str] = []
    numbers: list[str] = []
    run_seed = None
    for outcome in outcomes:
        if type(outcome) is Ack and outcome.result == b"null" and not outcome.effects:
            number, _, seed = outcome.completion_token.partition(".")
            if seed != run_seed:
                run_seed, ids, numbers = seed, [], []
                headers.append(("A", seed, ids, numbers))
            ids.append(outcome.job_id)
            numbers.append(number)
        else:
            run_seed = None
            headers.append(_outcome_of(outcome, cargo))
    return headers


def _outcome_of(outcome: AnyOutcome, cargo: Cargo) -> tuple[Any, ...]:
    job_id = outcome.job_id
    number, _, seed = outcome.completion_token.partition(".")
    effects = add_effects(outcome.effects, cargo)
    match outcome:
        case Ack(result=result):
            return "a", job_id, seed, number, cargo.add(result), False, False, effects
        case Retry(error=error, delay_ms=delay_ms):
            return "r", job_id, seed, number, cargo.add(error), delay_ms, False, effects
        case Dead(error=error, reason=reason):
            return "d", job_id, seed, number, cargo.add(error), False, reason, effects
        case Snooze(delay_ms=delay_ms, reason=reason):
            return "s", job_id, seed, number, False, delay_ms, reason or False, effects
        case Release():
            return "l", job_id, seed, number, False, False, False, effects
        case Cancelled(reason=reason):
            return "c", job_id, seed, number, False, False, reason or False, effects
        case Keep():
            return "k", job_id, seed, number, False, False, False, effects


def wish_of(fetch: Fetch | None) -> bytes:
    if fetch is None:
        return NOTHING
    return pack((fetch.queues, fetch.count, fetch.token_seed, fetch.bytes_max, fetch.counts))


# ── operating ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def filter_of(where: Filter) -> bytes:
    return pack(
        (
            where.ids,
            where.queues,
            where.statuses,
            where.names,
            where.lanes,
            or_false(where.created_from_ms),
            or_false(where.created_to_ms),
            or_false(where.ended_before_ms),
            where.text,
            where.reason,
        )
    )


def settings_of(limits: Limits) -> tuple[Any, ...]:
    return (
        or_false(limits.paused_until_ms),
        limits.weight,
        or_false(limits.active_max),
        or_false(limits.starts_per_minute),
        limits.starts_burst,
        or_false(limits.pending_max),
        limits.retain_ended or False,
        limits.retain_dead or False,
    )


_cursor_of_ids = msgspec.json.Decoder(tuple[str, int, int]).decode
_cursor_of_walk = msgspec.json.Decoder(list[str | int]).decode


def cursor_of(cursor: str | None, where: Filter) -> str:
    """The cursor as a script takes it. Raises InvalidOption for one that no listing of this kind gave out."""
    if cursor is None:
        return ""
    try:
        is_ours = bool(_cursor_of_ids(cursor)) if where.ids else _is_of_walk(_cursor_of_walk(cursor))
    except msgspec.MsgspecError:
        is_ours = False
    if not is_ours:
        raise InvalidOption("cursor", cursor, "is not one that this store gave out")
    return cursor


def _is_of_walk(parts: Sequence[str | int]) -> bool:
    """A queue, the number of a status, a source, and the place in it."""
    kinds = [type(each) for each in parts]
    return len(kinds) >= 3 and kinds[:2] == [str, int] and set(kinds[2:]) == {str}
