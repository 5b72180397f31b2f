"""What a handler, and the middleware around it, know and can do about the run they are in."""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias

from psyqueue import codec
from psyqueue.backend import Delivery, NewJob
from psyqueue.clock import to_datetime
from psyqueue.errors import InvalidState, TooLarge
from psyqueue.kernel.run_transaction import WAY_OUT, Transact

log: logging.Logger = logging.getLogger("psyqueue.job")

running_job: ContextVar[tuple[str, str, str, int] | None] = ContextVar("psyqueue_running_job", default=None)
"""Id, queue, name and attempt of the job whose handler runs here, on the loop or in a thread: for logging."""

StopReason: TypeAlias = Literal["cancel", "lease-lost", "timeout", "release", "unasked"]
"""Why a run ended early: asked for, its session is gone, it took too long, the worker stops; or it was cancelled by
nobody we know, as every task is when its loop is torn down.
"""

FOLLOW_UPS_MAX = 400
"""Follow-up jobs of one run: they commit in one step with its ack. More: `enqueue_bulk` from a follow-up job."""


def progress_key(job_id: str) -> str:
    """Where `ctx.progress` keeps the last value, in the shared state."""
    return f"progress:{job_id}"


class RunningJob:
    """The job of this run. `payload` and `trace` may be replaced by middleware before the handler sees them."""

    __slots__ = ("_cold", "_delivery", "_trace", "payload")

    def __init__(self, delivery: Delivery, payload: Any) -> None:
        self._delivery = delivery
        self._cold: dict[str, Any] | None = None
        self._trace: dict[str, str] | None = None
        self.payload: Any = payload

    @property
    def cold(self) -> dict[str, Any]:
        """The rarely needed fields as they were enqueued: back-off, timeout, meta, tenant, trace, …."""
        cold = self._cold
        if cold is None:
            self._cold = cold = dict(codec.decode(self._delivery.cold))
        return cold

    @property
    def id(self) -> str:
        """Its id."""
        return self._delivery.id

    @property
    def queue(self) -> str:
        """Where it was taken from."""
        return self._delivery.queue

    @property
    def name(self) -> str:
        """The name of its handler, or an alias of it."""
        return self._delivery.name

    @property
    def attempt(self) -> int:
        """1-based."""
        return self._delivery.attempt

    @property
    def max_retries(self) -> int:
        """Runs after the first one."""
        return self._delivery.max_retries

    @property
    def lost(self) -> int:
        """Runs of this job that ended with the loss of their worker."""
        return self._delivery.lost

    @property
    def generation(self) -> int:
        """How often it was replayed from the dead letters."""
        return self._delivery.generation

    @property
    def priority(self) -> int:
        """Higher runs first."""
        return self._delivery.priority

    @property
    def lane(self) -> str:
        """The share of the queue that it takes."""
        return self._delivery.lane

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the jobs it waited for."""
        return self._delivery.needs

    @property
    def created_at(self) -> datetime:
        """When it was enqueued, by the clock of the store."""
        return to_datetime(self._delivery.created_at_ms)

    @property
    def started_at(self) -> datetime:
        """When this run was dequeued, by the clock of the store."""
        return to_datetime(self._delivery.started_at_ms)

    @property
    def run_at(self) -> datetime:
        """When it was to start."""
        return to_datetime(self._delivery.run_at_ms)

    @property
    def schedule_id(self) -> str | None:
        """The schedule that made it."""
        return self.cold.get("schedule_id")

    @property
    def nominal_at(self) -> datetime | None:
        """The instant of its schedule that it was made for, however late it runs."""
        at_ms = self.cold.get("nominal_at_ms")
        return None if at_ms is None else to_datetime(at_ms)

    @property
    def tenant_id(self) -> str | None:
        """Whose job it is."""
        return self.cold.get("tenant_id")

    @property
    def meta(self) -> dict[str, Any]:
        """What it was enqueued with."""
        return self.cold.get("meta") or {}

    @property
    def trace(self) -> dict[str, str]:
        """Headers of the W3C trace context, such as `traceparent`: of its enqueue, or what middleware set.

        Follow-ups begin with them.
        """
        if self._trace is None:
            found = self.cold.get("trace")
            texts = found.items() if isinstance(found, dict) else ()
            self._trace = {name: text for name, text in texts if isinstance(text, str)}
        return self._trace

    @trace.setter
    def trace(self, headers: dict[str, str]) -> None:
        self._trace = headers


class Signals:
    """What the worker tells a run from outside; set on the event loop, readable from any thread.

    `is_over`: what its handler left running can enqueue nothing more with it.
    """

    __slots__ = ("cancelled", "is_over", "lease_lost", "stop_reason")

    def __init__(self) -> None:
        self.cancelled: bool = False
        self.lease_lost: bool = False
        self.is_over: bool = False
        self.stop_reason: StopReason | None = None


class FollowUp(Protocol):
    """Makes the job of `ctx.enqueue`, below that of the run: checks its options and gives it an id."""

    def __call__(
        self, parent: RunningJob, name_or_call: Any, payload: Any, options: dict[str, Any], /
    ) -> tuple[NewJob, Any]: ...


class Context:
    """Handed to handlers that ask for it (a first parameter named `ctx` or annotated `Context`) and to middleware.

    `job` is the job of this run, with its payload. `state` is a dict of this run, shared by middleware and handler.
    `fence` grows with every delivery of the job: give
    it to outside systems, so that they can turn away a writer that lost its lease.
    """

    __slots__ = (
        "_app",
        "_delivery",
        "_follow_up",
        "_report",
        "_signals",
        "_state",
        "_transact",
        "follow_ups",
        "job",
    )

    def __init__(
        self,
        delivery: Delivery,
        payload: Any,
        signals: Signals,
        follow_up: FollowUp,
        report: Callable[[Any], None],
        transact: Transact | None = None,
        *,
        app: Any = None,
    ) -> None:
        self.job: RunningJob = RunningJob(delivery, payload)
        self.follow_ups: list[NewJob] = []
        self._delivery = delivery
        self._signals = signals
        self._follow_up = follow_up
        self._report = report
        self._state: dict[str, Any] | None = None
        self._transact = transact
        self._app = app

    @property
    def attempt(self) -> int:
        """1-based: 1 in the first run."""
        return self._delivery.attempt

    @property
    def fence(self) -> int:
        """Grows with every delivery of the job."""
        return self._delivery.fence

    @property
    def state(self) -> dict[str, Any]:
        """For this run alone, shared by middleware and handler."""
        if self._state is None:
            self._state = {}
        return self._state

    @property
    def app(self) -> Any:
        """What the queue's `lifespan` yielded in this process; None without one.

        Raises InvalidState in a process of the handler's own (`mode="process"`), which has none.
        """
        if self._app is NO_LIFESPAN:
            raise InvalidState(
                'a handler in a process of its own (mode="process") has no lifespan. Make what it needs with Depends'
            )
        return self._app

    @property
    def tenant(self) -> str | None:
        """Whose job it is."""
        return self.job.tenant_id

    @property
    def lease_lost(self) -> bool:
        """Another worker may run this job: stop, nothing of this run counts any more."""
        return self._signals.lease_lost

    @property
    def cancelled(self) -> bool:
        """Somebody asked to cancel this job: stop soon. An `async def` handler is also cancelled."""
        return self._signals.cancelled

    @property
    def stop_reason(self) -> StopReason | None:
        """Why this run was told to stop: "cancel", "timeout", "release" (the worker stops), "lease-lost"; else None."""
        return self._signals.stop_reason

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry job_id, queue, name and attempt."""
        delivery = self._delivery
        extra = {
            "job_id": delivery.id,
            "queue": delivery.queue,
            "job_name": delivery.name,
            "attempt": delivery.attempt,
        }
        return _JobLog(log, extra)

    def progress(self, value: Any) -> None:
        """Say how far it is: any JSON value up to 8 KB, from any thread. The last one is kept beside the job.

        Raises PayloadError, TooLarge.
        """
        self._report(codec.encode(value, what="progress", bytes_max=8192))

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A connection in a transaction of the store's database: what is written there commits with the ack.

        `async with ctx.transaction() as connection:`, an asyncpg connection. Leaving the block does not commit yet:
        when the run has succeeded, its ack, its follow-ups and the writes are committed in one step, or none of them
        is. A run that fails, is cancelled or has lost its lease rolls back; so does an error that leaves the block.
        Raises InvalidState where the store has no transactions, and outside of `async def` handlers; StoreError.
        """
        if self._transact is None:
            raise InvalidState(f"a handler in a process of its own has no connection to the store. {WAY_OUT}")
        return self._transact()

    def enqueue(self, name_or_call: Any, payload: Any = None, /, **options: Any) -> Any:
        """Enqueue a follow-up that exists if and only if this run succeeds: it commits in the same step as the ack.

        Plain, from any thread. Returns its handle (in another process its id). The options are those of
        `PsyQueue.enqueue`, without `conn`. The enqueue middleware sees it when the handler has returned; if it rejects
        it, the run fails. Raises as `PsyQueue.enqueue` for bad input, TooLarge beyond 400 follow-ups, and InvalidState
        when the run is over.
        """
        if self._signals.is_over:
            raise run_is_over()
        if len(self.follow_ups) >= FOLLOW_UPS_MAX:
            text = f"a run has at most {FOLLOW_UPS_MAX} follow-up jobs; let one of them enqueue the rest in bulk"
            raise TooLarge(text, limit=FOLLOW_UPS_MAX)
        job, handle = self._follow_up(self.job, name_or_call, payload, options)
        self.follow_ups.append(job)
        return handle


def run_is_over() -> InvalidState:
    return InvalidState("the run has ended, and what it enqueues is written with its end. Wait for what enqueues there")


NO_LIFESPAN = object()
"""For runs in processes of their own."""


class _JobLog(logging.LoggerAdapter[logging.Logger]):
    """Keeps the caller's own `extra` beside ours (the base class would drop it)."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
