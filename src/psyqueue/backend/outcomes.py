"""What a worker gets (deliveries) and gives back (outcomes)."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from psyqueue.backend.jobs import NO_EFFECTS, Effects, Enqueued
from psyqueue.job import Status


class Delivery(Struct, frozen=True):
    """One dequeue of one job. `attempt` counts from 1, `fence` grows with every delivery of the job.

    Stores make one for each job, by position: nineteen fields by name cost six to fifteen times as much.

    `completion_token` is made by the store from the fetch's `token_seed`, differs between any two deliveries and is
    opaque. `needs` are the ids of the jobs that this one waited for.
    """

    id: str
    queue: str
    name: str
    payload: bytes
    cold: bytes
    completion_token: str
    fence: int
    attempt: int
    lost: int
    max_retries: int
    priority: int
    lane: str
    created_at_ms: int
    started_at_ms: int
    run_at_ms: int
    max_lost: int = 2
    generation: int = 0
    schedule_id: str | None = None
    needs: tuple[str, ...] = ()


class Outcome(Struct, frozen=True, kw_only=True):
    """The end of one delivery. Counts only through the session that holds it, with its token, while it is active."""

    job_id: str
    completion_token: str
    effects: Effects = NO_EFFECTS


class Ack(Outcome, frozen=True, kw_only=True):
    """→ completed. A cancel that was asked for meanwhile comes too late."""

    result: bytes = b"null"


class Retry(Outcome, frozen=True, kw_only=True):
    """→ scheduled after `delay_ms`, or dead(`exhausted`) when attempt > max_retries; the store decides."""

    error: bytes
    delay_ms: int


class Dead(Outcome, frozen=True, kw_only=True):
    """→ dead with `reason`."""

    error: bytes
    reason: str


class Snooze(Outcome, frozen=True, kw_only=True):
    """→ scheduled after `delay_ms`, the attempt given back."""

    delay_ms: int
    reason: str = ""


class Release(Outcome, frozen=True, kw_only=True):
    """→ pending at its old place, the attempt given back: it was not started."""


class Cancelled(Outcome, frozen=True, kw_only=True):
    """→ cancelled; without a reason of its own, with that of whoever asked for it."""

    reason: str = ""


class Keep(Outcome, frozen=True, kw_only=True):
    """Stays active: effects before the end, fenced by the token."""


AnyOutcome: TypeAlias = Ack | Retry | Dead | Snooze | Release | Cancelled | Keep
"""Retry, Snooze and Release of a job that somebody asked to cancel become cancelled."""

Verdict: TypeAlias = Literal["ok", "already", "lost", "conflict"]


class Settled(Struct, frozen=True):
    """What became of one outcome; `status` is the job's afterwards (None: the job is gone).

    `already`: this token settled it before. `lost`: another delivery or an operator has it; nothing changed.
    `conflict`: a precondition of its effects failed; the delivery stays active and nothing of the outcome counts.
    """

    job_id: str
    verdict: Verdict
    status: Status | None
    effects: tuple[Enqueued, ...] = ()


class Fetch(Struct, frozen=True, kw_only=True):
    """What to dequeue. `queues` in order of preference: a later one is looked at only when the earlier gave all it may.

    In a queue: the lane whose turn it is, in it the highest priority, then the lowest ready number.
    `token_seed`: 128 random bits as text, new for every call. `bytes_max` bounds payload + cold of all deliveries (the
    first one is always given). `counts`: the reply is to say how many jobs the session holds then.
    """

    queues: tuple[str, ...]
    count: int
    token_seed: str
    bytes_max: int = 8_388_608
    counts: bool = False


class SettleReply(Struct, frozen=True):
    """`settled` in the order of the outcomes, `deliveries` in the order in which they should run.

    `cancel_requested`: ids this session holds that somebody wants cancelled. `more`: there is more to get now (the step
    stopped at a bound). `next_due_in_ms`: when time alone will make a job of the fetched queues startable (it becomes
    due, a pause ends, a rate has a start to give); None = nothing known. `held`: how many jobs the session holds after
    a fetch that counts; None = it does not count, or the call is a repeat. More than its worker knows of: a call of
    long ago was done after all, or the store lost its last writes.
    """

    settled: tuple[Settled, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    cancel_requested: tuple[str, ...] = ()
    more: bool = False
    next_due_in_ms: int | None = None
    held: int | None = None


class Session(Struct, frozen=True, kw_only=True):
    """A running worker's registration; its lease covers every job that it holds. `meta` is JSON for people."""

    id: str
    worker: str
    queues: tuple[str, ...]
    lease_ms: int
    meta: bytes = b"{}"


class Renewal(Struct, frozen=True):
    """`open=False`: the session was reaped and its deliveries are lost. Late but not reaped is renewed."""

    open: bool
    cancel_requested: tuple[str, ...]
    paused: tuple[str, ...]
    now_ms: int
