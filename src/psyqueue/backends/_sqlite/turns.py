"""One step under its op: done, replayed, or refused as a late duplicate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from psyqueue.backend import AnyOutcome, Enqueued, NewJob, Op, Settled, SettleReply
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
        step.run(_PUT, (op.client, op.channel, op.turn, verb.name, verb.keep(step, reply), step.mono_ms))
    return reply


# ── enqueue ───────────────────────────────────────────────────────────────────────────────────────────────────────────
_decode_enqueued: Callable[[bytes], bytes | tuple[Enqueued, ...]] = msgspec.msgpack.Decoder(
    bytes | tuple[Enqueued, ...]
).decode


def enqueue_verb(jobs: Sequence[NewJob], follow_ups: Sequence[NewJob]) -> Verb[tuple[Enqueued, ...]]:
    """A job that was created is kept as its status, a byte: the id comes with the repeated call."""

    def keep(_: Step, reply: tuple[Enqueued, ...]) -> bytes:
        statuses = bytearray()
        for each in reply:
            if not each.created or each.status is None:
                return _encode(reply)
            statuses.append(NUMBER_OF[each.status])
        return _encode(bytes(statuses))

    def recall(_: Step, data: bytes) -> tuple[Enqueued, ...]:
        kept = _decode_enqueued(data)
        if not isinstance(kept, bytes):
            return kept
        asked = (*jobs, *follow_ups)
        return tuple(Enqueued(job.id, True, STATUSES[number]) for job, number in zip(asked, kept, strict=True))

    return Verb("enqueue", keep, recall)


# ── settle ────────────────────────────────────────────────────────────────────────────────────────────────────────────
class _Kept(Struct, frozen=True, array_like=True):
    """`settled` None: every outcome was acked. `given`: creation numbers of the deliveries, in order."""

    settled: tuple[Settled, ...] | None
    given: list[int]
    seed: str


_decode_settled = msgspec.msgpack.Decoder(_Kept).decode


def settle_verb(outcomes: Sequence[AnyOutcome], seed: str) -> Verb[SettleReply]:
    """Kept without payloads: a repeated call reads again the deliveries that the session still holds."""

    def keep(step: Step, reply: SettleReply) -> bytes:
        return _encode(_Kept(None if _are_acked(reply.settled) else reply.settled, step.given, seed))

    def recall(step: Step, data: bytes) -> SettleReply:
        kept = _decode_settled(data)
        settled = kept.settled
        if settled is None:
            settled = tuple(Settled(outcome.job_id, "ok", "completed") for outcome in outcomes)
        session, _ = step.session
        if session is None:
            return SettleReply(settled, more=True)
        again = (step.run(SQL["dequeue.again"], (n, kept.seed, session)).fetchone() for n in kept.given)
        held = (dequeue.delivery_of(row[:15], row[15], row[16], kept.seed, row[17]) for row in again if row is not None)
        return SettleReply(settled, tuple(held), settle.cancel_requested(step, session), more=True)

    return Verb("settle", keep, recall)


def _are_acked(settled: tuple[Settled, ...]) -> bool:
    return all(each.status == "completed" and each.verdict == "ok" and not each.effects for each in settled)
