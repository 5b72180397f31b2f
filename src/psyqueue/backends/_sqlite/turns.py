"""One step under its op: done, replayed, or refused as a late duplicate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from psyqueue.backend import Enqueued, Op, Settled, SettleReply
from psyqueue.backends._sqlite import dequeue, settle
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import NUMBER_OF, About, Step
from psyqueue.errors import StaleOp
from psyqueue.job import STATUSES

R = TypeVar("R")
_PUT = SQL["turn.put"]
_encode = msgspec.msgpack.encode


class Verb(Generic[R]):
    """How the reply of one verb is kept and brought back."""

    __slots__ = ("keep", "name", "recall")

    def __init__(self, name: str, keep: Callable[[Step, R], bytes], recall: Callable[[Step, bytes], R]) -> None:
        self.name = name
        self.keep = keep
        self.recall = recall


def plain(name: str, kind: type[R]) -> Verb[R]:
    """A verb whose reply is kept as it is."""
    decode: Callable[[bytes], R] = msgspec.msgpack.Decoder(kind).decode
    return Verb(name, lambda _, reply: _encode(reply), lambda _, kept: decode(kept))


def about(op: Op, session_id: str | None = None) -> About:
    """What the step of this op asks for when it begins."""
    return op.client, op.channel, session_id


def once(step: Step, op: Op, verb: Verb[R], act: Callable[[Step], R], *, is_change: bool = False) -> R:
    turn, name, kept = step.turn
    if turn is not None and op.turn <= turn:
        if op.turn < turn or verb.name != name:
            raise StaleOp(f"{verb.name}: turn {op.turn} of {op.client}/{op.channel} was followed by {turn}")
        return verb.recall(step, kept)
    reply = act(step)
    if is_change or step.is_changed:
        step.run(_PUT, (op.client, op.channel, op.turn, verb.name, bytearray(verb.keep(step, reply)), step.mono_ms))
    return reply


# ── enqueue ───────────────────────────────────────────────────────────────────────────────────────────────────────────
class _Created(Struct, frozen=True, array_like=True):
    """Every job was created: ids, and a byte for each status."""

    ids: list[str]
    statuses: bytes


_decode_enqueued: Callable[[bytes], tuple[_Created | None, tuple[Enqueued, ...]]] = msgspec.msgpack.Decoder(
    tuple[_Created | None, tuple[Enqueued, ...]]
).decode


def _keep_enqueued(_: Step, reply: tuple[Enqueued, ...]) -> bytes:
    statuses = bytearray()
    for each in reply:
        if not each.created or each.status is None:
            return _encode((None, reply))
        statuses.append(NUMBER_OF[each.status])
    return _encode((_Created([each.job_id for each in reply], bytes(statuses)), ()))


def _recall_enqueued(_: Step, data: bytes) -> tuple[Enqueued, ...]:
    created, reply = _decode_enqueued(data)
    if created is None:
        return reply
    pairs = zip(created.ids, created.statuses, strict=True)
    return tuple(Enqueued(job_id, True, STATUSES[number]) for job_id, number in pairs)


ENQUEUE = Verb("enqueue", _keep_enqueued, _recall_enqueued)


# ── settle ────────────────────────────────────────────────────────────────────────────────────────────────────────────
class _Kept(Struct, frozen=True, array_like=True):
    """`acked`: ids, if every outcome was an ack that counted; else `settled`. `given`: creation numbers, in order."""

    acked: list[str] | None
    settled: tuple[Settled, ...]
    given: list[int]
    seed: str
    session: int | None


_decode_settled = msgspec.msgpack.Decoder(_Kept).decode


def settle_verb(seed: str) -> Verb[SettleReply]:
    """Kept without payloads: a repeated call reads again the deliveries that the session still holds."""

    def keep(step: Step, reply: SettleReply) -> bytes:
        settled, session = reply.settled, step.session[0]
        if all(each.status == "completed" and each.verdict == "ok" and not each.effects for each in settled):
            return _encode(_Kept([each.job_id for each in settled], (), step.given, seed, session))
        return _encode(_Kept(None, settled, step.given, seed, session))

    return Verb("settle", keep, _recall_settled)


def _recall_settled(step: Step, data: bytes) -> SettleReply:
    kept = _decode_settled(data)
    settled = kept.settled
    if kept.acked is not None:
        settled = tuple(Settled(job_id, "ok", "completed") for job_id in kept.acked)
    again = (step.run(SQL["dequeue.again"], (n, kept.seed, kept.session)).fetchone() for n in kept.given)
    held = (dequeue.delivery_of(row[:15], row[15], row[16], kept.seed, row[17]) for row in again if row is not None)
    asked = settle.cancel_requested(step, kept.session) if kept.session is not None else ()
    return SettleReply(settled, tuple(held), asked, more=True)
