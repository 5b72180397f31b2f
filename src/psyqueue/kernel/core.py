"""What the parts of one queue share. They are given this, never the PsyQueue."""

from __future__ import annotations

import os
from asyncio import AbstractEventLoop
from asyncio import _get_running_loop as _running_loop
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from secrets import SystemRandom
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

from psyqueue.backend import BackendAdapter, Delivery, NewJob, Op
from psyqueue.clock import Clock, SystemClock
from psyqueue.errors import AlreadyStopped, ForkedProcess, LifecycleError, NotStarted
from psyqueue.ids import new_token
from psyqueue.kernel.bus import EventBus
from psyqueue.kernel.handlers import Handlers, HandlerSpec
from psyqueue.kernel.lifespan import Lifespan
from psyqueue.kernel.ops import GIVE_UP_MS, Channel, SharedChannel
from psyqueue.kernel.pipeline import Chain
from psyqueue.kernel.registry import Registry

if TYPE_CHECKING:
    from psyqueue.kernel.context import RunningJob
    from psyqueue.kernel.enqueue import Enqueuer
    from psyqueue.kernel.job_handle import JobHandle
    from psyqueue.kernel.portal import Portal
    from psyqueue.kernel.rehearsal import Rehearsal
    from psyqueue.kernel.worker import Worker

T = TypeVar("T")

FROM_OTHER_LOOP: Final = "`await asyncio.to_thread(handler.sync.enqueue, ...)`"
"""Async views of Flask and Django: each request has a loop of its own there, and a queue belongs to one."""

State: TypeAlias = Literal["new", "starting", "running", "draining", "stopped"]


class Core:
    """`backend`, `process_chain`, `enqueue_chain` and channels exist from the start of the queue on.

    `on_hang` is called in the lease thread when the event loop stands still: a worker process of its own exits there.
    `takes_interrupts`: Ctrl-C raises nothing in this process, so that a KeyboardInterrupt is a handler's own.
    `on_failure` is told of every run that failed, with the error itself, before the store knows.
    `client` identifies this process's calls to the store; it is new with every start. `portal` leads into the loop from
    threads without one.
    """

    portal: Portal

    def __init__(self, name: str, *, clock: Clock | None = None, chance: Callable[[], float] | None = None) -> None:
        self.name = name
        self.clock: Clock = clock or SystemClock()
        self.chance: Callable[[], float] = chance or SystemRandom().random
        self.bus: EventBus = EventBus(self.clock)
        self.registry: Registry = Registry(self)
        self.handlers: Handlers = Handlers()
        self.lifespan: Lifespan = Lifespan()
        self.workers: list[Worker] = []
        self.workers_made = 0
        self.enqueue_chain: Chain | None = None
        self.process_chain: Chain | None = None
        self.on_hang: Callable[[], None] = _stay
        self.takes_interrupts: bool = False
        self.on_failure: Callable[[Delivery, BaseException], None] = _pass_by
        self.rehearsal: Rehearsal | None = None
        self.state: State = "new"
        self.client: str = ""
        self._channels = 0
        self._operators: SharedChannel | None = None
        self._enqueuer: Enqueuer | None = None
        self._forks = _forks
        self._loop: AbstractEventLoop | None = None

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def open_channels(self, make_enqueuer: Callable[[Core], Enqueuer]) -> None:
        """A new identity towards the store."""
        self.client = new_token()
        self._channels = 0
        self._forks = _forks
        self._loop = _running_loop()
        self._operators = SharedChannel(self.client, self._next_channel(), clock=self.clock, chance=self.chance)
        self._enqueuer = make_enqueuer(self)

    def close_channels(self) -> None:
        """As before the first start."""
        self.client = ""
        self._operators = self._enqueuer = self._loop = None
        self.enqueue_chain = self.process_chain = None

    def set_time(self, clock: Clock, chance: Callable[[], float]) -> None:
        """For everything that is started from now on."""
        self.clock = self.bus.clock = clock
        self.chance = chance

    def require_running(self) -> None:
        """Raises NotStarted, AlreadyStopped, ForkedProcess; LifecycleError in another thread or event loop.

        While workers drain their handlers may use the queue.
        """
        if self._forks != _forks or self.state not in _TAKES_JOBS or _running_loop() is not self._loop:
            self._refuse()

    @property
    def loop(self) -> AbstractEventLoop | None:
        """The one that started the queue; None before."""
        return self._loop

    def require_own_process(self) -> None:
        """Raises ForkedProcess in a child of the process that started the queue."""
        if self._forks != _forks and self.state != "new":
            raise ForkedProcess(
                f"queue {self.name!r} was started before this process was forked (pid {os.getpid()}); its connections "
                "belong to the parent. Make and start a PsyQueue of its own after the fork"
            )

    def require_own_loop(self) -> None:
        """Raises LifecycleError outside of the event loop that started the queue."""
        if _running_loop() is not self._loop and self.state != "new":
            raise LifecycleError(
                f"queue {self.name!r} belongs to the event loop that started it, and this is another one, or none. "
                f"In a plain handler use ctx.enqueue, from another thread q.sync, on another loop {FROM_OTHER_LOOP}"
            )

    def _refuse(self) -> None:
        self.require_own_process()
        if self.state == "stopped":
            raise AlreadyStopped(f"queue {self.name!r} is stopped; make a new PsyQueue to go on")
        if self.state not in _TAKES_JOBS:
            raise NotStarted(f"queue {self.name!r} is not started: await q.start(), or use `async with q:`")
        self.require_own_loop()

    def require_new(self, what: str) -> None:
        """Raises LifecycleError once the queue has begun to start."""
        self.require_own_process()
        if self.state != "new":
            raise LifecycleError(f"{what} after start() changes nothing any more; call it before")

    def add_handler(self, spec: HandlerSpec) -> None:
        """Known to this process, its running workers included. Raises ConfigError if one of its names is taken."""
        self.handlers.add(spec)
        for worker in self.workers:
            # From any thread: modules with handlers may be imported late, and anywhere.
            assert self._loop is not None
            with suppress(RuntimeError):  # the loop is closed: nobody runs any more
                self._loop.call_soon_threadsafe(worker.handlers_changed)

    # ── the store ─────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def backend(self) -> BackendAdapter:
        """The connected store with every wrapper around it. Raises NotStarted."""
        return self.registry.store

    def new_channel(self, give_up_ms: float = GIVE_UP_MS) -> Channel:
        """For one caller that awaits its calls one after the other; `math.inf` never gives up."""
        return Channel(self.client, self._next_channel(), clock=self.clock, chance=self.chance, give_up_ms=give_up_ms)

    async def operate(self, call: Callable[[Op], Awaitable[T]]) -> T:
        """One mutating call of an operator, repeated until its outcome is known."""
        assert self._operators is not None
        return await self._operators.run(call)

    def _next_channel(self) -> int:
        self._channels += 1
        return self._channels

    # ── enqueue ───────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def enqueuer(self) -> Enqueuer:
        """Raises as `require_running`."""
        if self._enqueuer is None:
            self._refuse()
        assert self._enqueuer is not None
        return self._enqueuer

    def follow_up(
        self, parent: RunningJob, name_or_call: Any, payload: Any, options: dict[str, Any]
    ) -> tuple[NewJob, JobHandle[Any]]:
        """The job of `ctx.enqueue` and its handle; nothing is written."""
        return self.enqueuer.follow_up(parent, name_or_call, payload, options)

    async def guard_follow_ups(self, jobs: Sequence[NewJob]) -> tuple[NewJob, ...]:
        """The jobs of `ctx.enqueue` as the enqueue middleware leaves them; raises what it raises."""
        return await self.enqueuer.guard_follow_ups(jobs)


_TAKES_JOBS = frozenset(("running", "draining"))

_forks = 0
"""How often this process was forked since psyqueue was imported; a queue started before the last time is not ours."""


def _stay() -> None:
    """An application that runs a worker inside is not ours to end."""


def _pass_by(delivery: Delivery, error: BaseException) -> None:
    """Nobody asked for it."""


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 - one number per process, written only here
    _forks += 1


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_count_fork)
