"""A `Context` without a queue, to call a handler as the function that it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct

from psyqueue import codec
from psyqueue.backend import Delivery, NewJob
from psyqueue.clock import SystemClock
from psyqueue.errors import InvalidState
from psyqueue.ids import new_id, new_token
from psyqueue.kernel.context import Context, RunningJob, Signals
from psyqueue.kernel.core import Core
from psyqueue.kernel.enqueue import Enqueuer
from psyqueue.kernel.handler import Call
from psyqueue.kernel.options import read, read_int, read_name
from psyqueue.testing.stand_in import StandIn


class FollowUp(Struct, frozen=True):
    """What a handler enqueued by `ctx.enqueue`; `options` as it gave them."""

    id: str
    name: str
    queue: str
    payload: Any
    options: dict[str, Any]


class HandlerContext(Context):
    """Made by `context()`. `enqueued` are the follow-ups of the run, `progressed` what it reported, in order."""

    __slots__ = ("_test_signals", "enqueued", "progressed")

    def __init__(self, delivery: Delivery, payload: Any, connection: Any, app: Any) -> None:
        self._test_signals = Signals()
        self.enqueued: list[FollowUp] = []
        self.progressed: list[Any] = []

        @asynccontextmanager
        async def transact() -> AsyncIterator[Any]:
            if connection is None:
                raise InvalidState("this context has no connection for ctx.transaction(): context(connection=...)")
            yield connection

        super().__init__(delivery, payload, self._test_signals, _Enqueuing(), self._reported, transact, app=app)

    def cancel(self) -> None:
        """Let `ctx.cancelled` be true from now on."""
        self._test_signals.cancelled = True
        self._test_signals.stop_reason = "cancel"

    def lose_lease(self) -> None:
        """Let `ctx.lease_lost` be true from now on."""
        self._test_signals.lease_lost = True
        self._test_signals.stop_reason = "lease-lost"

    def enqueue(self, name_or_call: Any, payload: Any = None, /, **options: Any) -> Any:
        """As a handler's: checked, and kept in `enqueued`."""
        handle = super().enqueue(name_or_call, payload, **options)
        job = self.follow_ups[-1]
        asked = {**name_or_call.options, **options} if isinstance(name_or_call, Call) else options
        self.enqueued.append(FollowUp(job.id, job.name, job.queue, codec.decode(job.payload), asked))
        return handle

    def _reported(self, progress: bytes) -> None:
        self.progressed.append(codec.decode(progress))


def context(
    payload: Any = None,
    *,
    name: str = "test",
    queue: str = "test",
    id: str | None = None,  # noqa: A002 - the option's name everywhere
    attempt: int = 1,
    max_retries: int = 3,
    priority: int = 0,
    lane: str = "",
    tenant: str | None = None,
    meta: Mapping[str, Any] | None = None,
    connection: Any = None,
    app: Any = None,
) -> HandlerContext:
    """The context of a first run, or of attempt `attempt`, of a job with these fields; no queue and no store behind it.

    `payload` is `ctx.job.payload`, after its way through JSON; `connection` is what `ctx.transaction()` yields, `app`
    stands for what the queue's lifespan does. Raises PayloadError, InvalidOption.
    """
    cold: dict[str, Any] = {} if tenant is None else {"tenant_id": read_name("tenant", tenant)}
    if meta is not None:
        cold["meta"] = read({"meta": meta})["meta"]
    now_ms = SystemClock().now_ms()
    body = codec.encode(payload)
    delivery = Delivery(
        id=new_id() if id is None else read_name("id", id),
        queue=read_name("queue", queue),
        name=read_name("name", name),
        payload=body,
        cold=codec.encode_trusted(cold),
        completion_token=new_token(),
        fence=read_int("attempt", attempt, 1, 1_000_000),
        attempt=attempt,
        lost=0,
        max_retries=read_int("max_retries", max_retries, 0, 1_000_000),
        priority=priority,
        lane=lane,
        created_at_ms=now_ms,
        started_at_ms=now_ms,
        run_at_ms=now_ms,
    )
    return HandlerContext(delivery, codec.decode(body), connection, app)


class _Enqueuing:
    """The kernel's own check of follow-ups, on a queue that knows the handlers of the calls it is given."""

    def __init__(self) -> None:
        self._core: Core | None = None

    def __call__(
        self, parent: RunningJob, name_or_call: Any, payload: Any, options: dict[str, Any]
    ) -> tuple[NewJob, Any]:
        core = self._core
        if core is None:
            self._core = core = Core("testing")
            core.registry.stand_in(StandIn())
            core.registry.open_store(core.name)
            core.open_channels(Enqueuer)
        if isinstance(name_or_call, Call) and core.handlers.find(name_or_call.spec.name) is None:
            core.handlers.add(name_or_call.spec)
        return core.follow_up(parent, name_or_call, payload, options)
