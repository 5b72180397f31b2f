"""What comes back from a script, as the structs of the seam."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from psyqueue.backend import (
    Amended,
    AnyOutcome,
    Delivery,
    Done,
    Enqueued,
    Holders,
    Item,
    JobView,
    Limits,
    Lock,
    NewJob,
    Page,
    QueueInfo,
    Renewal,
    Schedule,
    Session,
    SessionInfo,
    Settled,
    SettleReply,
    Stored,
    Verdict,
)
from psyqueue.backends._redis.encoding import INITIALS, LENGTHS, Rest
from psyqueue.backends.refusals import refusal
from psyqueue.errors import (
    Refused,
    StaleOp,
    StoreUnavailable,
    StoreUnusable,
)
from psyqueue.job import STATUSES, Status

STATUS_OF: Final[dict[str, Status]] = {initial: status for status, initial in INITIALS.items()}
_VERDICTS: Final[dict[str, Verdict]] = {"o": "ok", "a": "already", "l": "lost", "c": "conflict"}
_REFUSED = 2
_BROKEN: Final = NewJob(id="", queue="", name="(a broken body)", payload=b"null")
"""No handler has this name, so its job fails as one of an unknown name does, and the worker goes on."""
_decode_rest = msgspec.msgpack.Decoder(Rest).decode
_facts_of = msgspec.msgpack.Decoder(tuple[int, int, int, int, int, int, int, int]).decode
_names_of = msgspec.msgpack.Decoder(tuple[str, ...]).decode
_settings_of = msgspec.msgpack.Decoder(list[Any]).decode


def unless_refused(reply: Any) -> Any:
    """The reply of a verb with an op. Raises what the script refused, StoreUnavailable for what no script says."""
    if type(reply) is not list or len(reply) < 2:
        text = "what came is no reply of psyqueue's scripts. Is something between it and the server?"
        raise StoreUnavailable(f"{text} Repeat the same call to find out")
    if reply[0] == _REFUSED:
        raise refused(reply[1:])
    return reply[1]


def refused(words: Sequence[Any]) -> Refused:
    facts = [each.decode() if isinstance(each, bytes) else each for each in words[1:]]
    return refusal(words[0].decode(), facts)


# ── the hot path ──────────────────────────────────────────────────────────────────────────────────────────────────────
def enqueued_of(reply: int | list[list[bytes]], jobs: Sequence[NewJob] = ()) -> tuple[Enqueued, ...]:
    """A number instead of replies: all are new, and pending."""
    if isinstance(reply, int):
        if reply != len(jobs):
            raise StaleOp("another call was made with this op: its jobs are not those of this one")
        return tuple([Enqueued(job.id, True, "pending") for job in jobs])
    return tuple(Enqueued(each[0].decode(), each[1] == b"+", _status(each[2])) for each in reply)


def _status(initial: bytes) -> Status | None:
    return STATUS_OF.get(initial.decode())


def settled_of(reply: list[Any], outcomes: Sequence[AnyOutcome], seed: str) -> SettleReply:
    verdicts, followed, deliveries, asked, more, next_ms, now_ms, held = reply
    return SettleReply(
        _settled(verdicts.decode(), followed, outcomes),
        tuple(_deliveries(deliveries, seed, now_ms)) if deliveries else (),
        tuple([each.decode() for each in asked or ()]),
        more=bool(more),
        next_due_in_ms=next_ms,
        held=held,
    )


_ACKED = "oc"


def _settled(verdicts: str, followed: list[Any] | None, outcomes: Sequence[AnyOutcome]) -> tuple[Settled, ...]:
    if len(verdicts) != 2 * len(outcomes):
        raise StaleOp("another call was made with this op: its outcomes are not those of this one")
    effects = {number: enqueued_of(each) for number, each in followed or ()}
    if not effects and verdicts == _ACKED * len(outcomes):
        return tuple([Settled(outcome.job_id, "ok", "completed") for outcome in outcomes])
    return tuple(
        Settled(
            outcome.job_id,
            _VERDICTS[verdicts[2 * number]],
            STATUS_OF.get(verdicts[2 * number + 1]),
            effects.get(number + 1, ()),
        )
        for number, outcome in enumerate(outcomes)
    )


def _deliveries(reply: Sequence[Any], seed: str, now_ms: int) -> Iterator[Delivery]:
    ids, bodies, more = reply
    facts: dict[int, bytes] = dict(zip(more[::2], more[1::2], strict=True)) if more else {}
    for at, (job_id, body) in enumerate(zip(ids.decode().split("\n"), bodies, strict=True), 1):
        payload, cold, _, like = _parts(body)
        if at in facts:
            number, created_ms, attempt, fence, lost, priority, run_at_ms, generation = _facts_of(facts[at])
        else:
            number, created_ms = born(body)
            attempt, fence, lost, priority, run_at_ms, generation = 1, 1, 0, 0, created_ms, 0
        yield Delivery(
            job_id,
            like.queue,
            like.name,
            payload,
            cold,
            f"{number}.{seed}",
            fence,
            attempt,
            lost,
            like.max_retries,
            priority,
            like.lane,
            created_ms,
            now_ms,
            run_at_ms,
            like.max_lost,
            generation,
            like.schedule_id,
            tuple([need.job_id for need in like.needs]) if like.needs else (),
        )


_INSTANT_CHARS = 13


def born(body: bytes) -> tuple[int, int]:
    """The creation number and instant that the scripts write before what a client wrote (includes/bodies.lua)."""
    number, _, rest = body.partition(b" ")
    created = rest[:_INSTANT_CHARS]
    return int(number[1:]), int(created) if created.isdigit() else 0  # else it is broken, and its job will say so


def _parts(body: bytes | None) -> tuple[bytes, bytes, bytes, NewJob]:
    """Payload, cold, digest, a job with the rest; of a body that is gone or not written by us those of `_BROKEN`."""
    body = body or b""
    lengths_at = body.find(b" ") + 1 + _INSTANT_CHARS
    payload_at = lengths_at + LENGTHS.size
    try:
        payload, cold, digest = LENGTHS.unpack_from(body, lengths_at)
        cold_at = payload_at + payload
        digest_at = cold_at + cold
        rest_at = digest_at + digest
        like = _job_like(body[rest_at:])
    except (struct.error, msgspec.MsgspecError):
        return _BROKEN.payload, _BROKEN.cold, _BROKEN.digest, _BROKEN
    return body[payload_at:cold_at], body[cold_at:digest_at], body[digest_at:rest_at], like


@lru_cache(1_024)
def _job_like(packed: bytes) -> NewJob:
    """One without an id and a body of its own. Nearly all jobs of a handler are like it."""
    rest = _decode_rest(packed)
    return NewJob(
        id="",
        queue=rest.queue,
        name=rest.name,
        payload=b"",
        max_retries=rest.max_retries,
        max_lost=rest.max_lost,
        lane=rest.lane,
        schedule_id=rest.schedule_id,
        unique=rest.unique,
        idempotency=rest.idempotency,
        gate=rest.gate,
        needs=rest.needs,
    )


def renewal_of(reply: list[Any]) -> Renewal:
    is_open, asked, paused, now_ms = reply
    return Renewal(bool(is_open), _texts(asked), _texts(paused), now_ms)


def done_of(reply: list[Any]) -> Done:
    ids, more, *rest = reply
    return Done(_texts(ids), more=bool(more), next_in_ms=rest[0] if rest else None)


def _texts(raw: Sequence[bytes]) -> tuple[str, ...]:
    return tuple([each.decode() for each in raw])


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode()


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _fields(flat: Sequence[bytes]) -> dict[str, bytes]:
    parts = iter(flat)
    return {name.decode(): value for name, value in zip(parts, parts, strict=True)}


def view_of(reply: list[Any]) -> JobView:
    if len(reply) == 1:
        raise StoreUnusable(f"job {reply[0].decode()!r}: its key holds what psyqueue did not write. Remove it")
    raw_id, body, result, errors, worker, codes, *flat = reply
    shared, fields = job_of([raw_id, body, result, errors, *flat])
    is_active = shared["status"] == "active"
    return JobView(
        **shared,
        session_id=fields["session"].decode() if is_active else None,
        worker=_text(worker) if is_active else None,
        blocked_by=_texts(codes),
    )


def job_of(reply: list[Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What a `JobView` and a `MovedJob` both say of a job; and the fields of its row."""
    raw_id, body, result, errors, *flat = reply
    fields = _fields(flat)
    status = STATUSES[STATUSES.index(fields["status"].decode())]

    def number(name: str, default: int = 0) -> int:
        return int(fields.get(name, default))

    def instant(name: str) -> int | None:
        return int(fields[name]) if name in fields else None

    created_ms = number("created_at")
    run_at_ms = number("run_at", created_ms)
    shared: dict[str, Any] = {
        "job": new_job_of(raw_id, body, run_at_ms, number("priority")),
        "status": status,
        "attempt": number("attempt"),
        "lost": number("lost"),
        "generation": number("generation"),
        "fence": number("fence", number("attempt")),
        "ready_number": number("ready", number("number")) if status == "pending" else None,
        "held": "held" in fields,
        "cancel_requested": "cancel" in fields,
        "reason": fields.get("reason", b"").decode(),
        "created_at_ms": created_ms,
        "started_at_ms": instant("started_at"),
        "completed_at_ms": instant("completed_at"),
        "run_at_ms": run_at_ms,
        "expires_at_ms": instant("expires_at"),
        "result": b"null" if result is None and status == "completed" else result,
        "errors": tuple(errors),
    }
    return shared, fields


def holders_of(reply: list[Any]) -> Holders:
    unique, kept = reply
    return Holders(
        tuple(map(_text, unique)), tuple(None if each is None else (each[0].decode(), each[1]) for each in kept)
    )


def new_job_of(raw_id: bytes, body: bytes | None, run_at_ms: int, priority: int = 0) -> NewJob:
    """What the body says, and what stands in the row beside it."""
    payload, cold, digest, like = _parts(body)
    return replace(
        like,
        id=raw_id.decode(),
        payload=payload,
        cold=cold,
        digest=digest,
        priority=priority,
        run_at_ms=run_at_ms,
    )


def page_of(reply: list[Any]) -> Page:
    views, cursor = reply
    return Page(tuple(view_of(each) for each in views), _text(cursor))


def queues_of(reply: list[Any]) -> tuple[tuple[QueueInfo, ...], str | None]:
    infos, cursor = reply
    return tuple(_queue_of(each) for each in infos), _text(cursor)


def _queue_of(reply: list[Any]) -> QueueInfo:
    queue, oldest_ms, lanes, settings, *flat = reply
    counts = _fields(flat)
    return QueueInfo(
        queue=queue.decode(),
        counts={status: int(counts.get(status, 0)) for status in STATUSES},
        oldest_pending_at_ms=oldest_ms,
        lanes=lanes,
        limits=limits_of(queue.decode(), settings),
    )


def limits_of(queue: str, packed: bytes | None, lane: str | None = None) -> Limits:
    if packed is None:
        return Limits(queue=queue, lane=lane)
    paused, weight, active, rate, burst, pending, ended, dead = _settings_of(packed)
    return Limits(
        queue=queue,
        lane=lane,
        paused_until_ms=_or_none(paused),
        weight=weight,
        active_max=_or_none(active),
        starts_per_minute=_or_none(rate),
        starts_burst=burst,
        pending_max=_or_none(pending),
        retain_ended=(ended[0], ended[1]) if ended else None,
        retain_dead=(dead[0], dead[1]) if dead else None,
    )


def lane_limits_of(queue: str, reply: list[Any]) -> tuple[tuple[Limits, ...], str | None]:
    lanes, has_more = reply
    page = tuple(limits_of(queue, packed, lane.decode()) for lane, packed in lanes)
    return page, page[-1].lane if has_more else None


def _or_none(value: Any) -> int | None:
    """Absent stands as False; 0 is a number."""
    return None if value is False else value


def sessions_of(reply: list[Any]) -> tuple[tuple[SessionInfo, ...], str | None]:
    infos, cursor = reply
    return tuple(_session_of(each) for each in infos), _text(cursor)


def _session_of(reply: list[Any]) -> SessionInfo:
    session_id, held, left_ms, worker, queues, lease_ms, meta, opened_ms = reply
    session = Session(
        id=session_id.decode(), worker=worker.decode(), queues=_names_of(queues), lease_ms=int(lease_ms), meta=meta
    )
    return SessionInfo(session, held, int(opened_ms), left_ms)


def amended_of(reply: list[Any]) -> Amended:
    changed, skipped, cursor = reply
    return Amended(
        _texts(changed), tuple((job_id.decode(), _status(initial)) for job_id, initial in skipped), _text(cursor)
    )


def schedules_of(reply: list[Any]) -> tuple[tuple[Schedule, ...], str | None]:
    found, cursor = reply
    return tuple(schedule_of(each) for each in found), _text(cursor)


def schedule_of(reply: list[Any]) -> Schedule:
    raw_id, version, spec, next_ms, nominal_ms, is_paused = reply
    return Schedule(
        id=raw_id.decode(),
        spec=spec,
        version=version,
        next_at_ms=next_ms,
        last_nominal_ms=nominal_ms,
        paused=bool(is_paused),
    )


def item_of(key: str, reply: list[Any] | None) -> Item | None:
    return None if reply is None else Item(key, reply[0], reply[1])


def items_of(reply: list[Any]) -> tuple[tuple[Item, ...], str | None]:
    found, cursor = reply
    return tuple(Item(key.decode(), value, version) for key, value, version in found), _text(cursor)


def records_of(reply: list[Any]) -> tuple[Stored, ...]:
    return tuple(Stored(int(seq), int(at_ms), body) for seq, at_ms, body in reply)


def lock_of(reply: list[Any]) -> Lock:
    fence, holder, left_ms = reply
    return Lock(fence, holder.decode(), left_ms)
