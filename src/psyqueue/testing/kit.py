"""`async with q.testing() as t`: the application's own queue, on a store and in a time that belong to the test."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, Unpack, get_args

import msgspec

from psyqueue.clock import Duration, SystemClock, to_at_ms, to_datetime, to_ms
from psyqueue.errors import InvalidOption, InvalidState, JobNotFound
from psyqueue.events import Event
from psyqueue.kernel.aio import spawn, wait_any
from psyqueue.kernel.options import read_bool, read_choice, read_int
from psyqueue.kernel.pipeline import CallNext, Middleware
from psyqueue.kernel.rehearsal import Rehearsal
from psyqueue.testing.engine import Engine, Failure
from psyqueue.testing.faults import NotIdle
from psyqueue.testing.matching import Expected, found_text, matching, missing_text, wanted
from psyqueue.testing.stand_in import StandIn
from psyqueue.testing.timeline import History
from psyqueue.testing.virtual_time import Scope, StoreClock, VirtualTime, current_scope, install, uninstall

if TYPE_CHECKING:
    from psyqueue.kernel.core import Core
    from psyqueue.kernel.views import JobView

ClockKind: TypeAlias = Literal["virtual", "real"]
RunMode: TypeAlias = Literal["manual", "inline"]

RUNS_MAX = 1_000
"""Of one `drain` or `advance`, unless it is given another limit."""


class Kit:
    """Made by `PsyQueue.testing`, entered once. docs/testing.md shows its use.

    Everything that looks (`enqueued`, `job`, `history`, the assertions) is a plain call, also after the end.
    """

    def __init__(
        self,
        core: Core,
        *,
        clock: ClockKind = "virtual",
        mode: RunMode = "manual",
        now: datetime | None = None,
        raise_errors: bool = True,
        patience: Duration = "10s",
    ) -> None:
        self.history: History = History()
        """What happened, in order."""
        self._core = core
        self._is_virtual = read_choice("clock", clock, get_args(ClockKind)) == "virtual"
        self._mode = read_choice("mode", mode, get_args(RunMode))
        self._start_ms = None if now is None else to_at_ms("now", now)
        if now is not None and not self._is_virtual:
            raise InvalidOption("now", now, "is for a virtual clock; the real one cannot be set")
        self._raise_errors = read_bool("raise_errors", raise_errors)
        self._patience_ms = to_ms("patience", patience, minimum_ms=1)
        self._store = StandIn(test_clock=self._is_virtual)
        self._engine: Engine | None = None
        self._began_at = to_datetime(0)
        self._news: set[asyncio.Future[None]] = set()
        self._end = AsyncExitStack()

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def __aenter__(self) -> Self:
        """Raises LifecycleError for a queue that is running, and what its start raises."""
        if self._engine is not None:
            raise InvalidState("this test kit was used before; call q.testing() for each test")
        async with AsyncExitStack() as undo:
            await self._enter(undo)
            self._end = undo.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end.__aexit__(kind, error, trace)

    async def _enter(self, undo: AsyncExitStack) -> None:
        await self._store.connect()
        clock = await self._set_up_clock()
        loop = asyncio.get_running_loop()
        install(loop)
        undo.callback(uninstall, loop)
        time = VirtualTime(loop, self._store.now_ms) if self._is_virtual else None
        if time is not None:
            undo.callback(setattr, time, "is_over", True)
        self._engine = engine = Engine(
            self._core, self._store, time, patience_ms=self._patience_ms, on_expired=self._note_expired
        )
        self._began_at = to_datetime(clock.now_ms())
        rehearsal = Rehearsal(
            self._core,
            self._store,
            clock=clock,
            chance=_in_the_middle,
            on_failure=engine.failed,
            process_next=engine.run_next,
            takes_workers=not self._is_virtual,
            first=(Middleware("enqueue", "guard", self._run_inline, "testing"),) if self._mode == "inline" else (),
        )
        # Services of plugins sleep in the time of the test.
        context = Scope(time).context()
        await spawn(rehearsal.start(), name="psyqueue-test-start", context=context, is_awaited=True)
        undo.push_async_callback(rehearsal.stop)
        undo.push_async_callback(engine.close)
        self._core.bus.on("job:*", self._note)

    async def _set_up_clock(self) -> SystemClock:
        if not self._is_virtual:
            return SystemClock()
        start_ms = SystemClock().now_ms() if self._start_ms is None else self._start_ms
        await self._store.advance_clock(start_ms - self._store.now_ms())
        return StoreClock(self._store.now_ms)

    def _note(self, event: Event) -> None:
        self.history.add(event, self._began_at)
        if event.type == "job:started":
            self._running().started(event)
        elif event.type == "job:dead":
            self._running().died(event)
        for news in self._news:
            if not news.done():
                news.set_result(None)

    def _note_expired(self, job_ids: list[str]) -> None:
        """The store ended them by itself: no worker, and so no event, tells of it."""
        for job_id in job_ids:
            view = self.job(job_id)
            data = {"job_id": job_id, "queue": view.queue, "name": view.name, "reason": view.reason}
            self.history.add(Event("job:dead", self._store.now_ms(), data), self._began_at)

    async def _run_inline(self, ctx: Any, call_next: CallNext) -> Any:  # noqa: ARG002 - as every middleware
        """The jobs of this enqueue run before it returns; those of a handler, when that has returned."""
        handles = await call_next()
        if current_scope() is None:
            await self.drain()
        return handles

    def _running(self) -> Engine:
        if self._engine is None:
            raise InvalidState("the test has not begun: `async with q.testing() as t:`")
        return self._engine

    # ── run ───────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def drain(self, *, limit: int = RUNS_MAX, raise_errors: bool | None = None) -> int:
        """Run everything that is pending, follow-ups too, until nothing is; how many runs that were.

        Time stands still, but for handlers that sleep. Raises the first error of a handler, itself, after its job was
        settled, unless `raise_errors` is False; TooManyRuns, StillRunning.
        """
        return await self._run(None, limit, raise_errors)

    async def advance(self, by: Duration, *, limit: int = RUNS_MAX, raise_errors: bool | None = None) -> int:
        """Let time pass, and run what becomes due on the way, each at its instant; how many runs that were.

        What is pending now runs first. A handler that sleeps for longer goes on with the next `advance` or `drain`.
        Raises as `drain`, at the instant of the error, and InvalidState for a clock that is real.
        """
        by_ms = to_ms("by", by)
        if not self._is_virtual:
            raise InvalidState('real time passes by itself. Only q.testing(clock="virtual") can advance')
        return await self._run(self._store.now_ms() + by_ms, limit, raise_errors)

    async def idle(self, timeout: Duration = "5s") -> None:
        """Until nothing is pending or running, for tests in real time with a worker. Raises NotIdle."""
        timeout_ms = to_ms("timeout", timeout)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout_ms / 1000
        while (unfinished := self._store.unfinished()) > 0:
            left_ms = (give_up_at - loop.time()) * 1000
            if left_ms <= 0:
                raise NotIdle(timeout_ms, unfinished, str(self.history))
            news: asyncio.Future[None] = loop.create_future()
            self._news.add(news)
            try:
                await wait_any(news, timeout_ms=left_ms)
            finally:
                self._news.discard(news)

    async def _run(self, until_ms: int | None, limit: int, raise_errors: bool | None) -> int:  # noqa: FBT001 - given on
        is_raising = self._raise_errors if raise_errors is None else read_bool("raise_errors", raise_errors)
        return await self._running().run(
            until_ms=until_ms, limit=read_int("limit", limit, 1, 1_000_000), raise_errors=is_raising
        )

    # ── look ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def now(self) -> datetime:
        """The time of the test."""
        return to_datetime(self._store.now_ms())

    @property
    def failures(self) -> list[Failure]:
        """What handlers raised, oldest first; verdicts such as Retry are no failures."""
        return list(self._running().failures)

    def job(self, job: object) -> JobView:
        """The job as it is now, by its handle, view or id. Raises JobNotFound."""
        job_id = str(getattr(job, "id", job))
        found = self._store.view(job_id)
        if found is None:
            raise JobNotFound(job_id)
        return found

    def enqueued(
        self, name: object = None, *, payload: Any = msgspec.UNSET, **fields: Unpack[Expected]
    ) -> list[JobView]:
        """Jobs that were enqueued in this test, in order, whatever became of them: all, or those that match.

        Compares, and raises InvalidOption, as `assert_enqueued` does.
        """
        return matching(self._store.views(), wanted(name, payload, fields))

    def assert_enqueued(
        self, name: object, *, payload: Any = msgspec.UNSET, count: int | None = None, **fields: Unpack[Expected]
    ) -> list[JobView]:
        """The jobs that match: at least one, or exactly `count`; else AssertionError with those that came near.

        `name`: the job's, or its handler. `payload` and `meta` may name a part: mappings may hold more. Raises
        InvalidOption for a field that jobs are not compared by.
        """
        __tracebackhide__ = True
        what, jobs = wanted(name, payload, fields), self._store.views()
        found = matching(jobs, what)
        if not found and count != 0:
            raise AssertionError(missing_text(jobs, what))
        if count is not None and len(found) != count:
            raise AssertionError(found_text(found, what, f"{len(found)} were enqueued, not {count}"))
        return found

    def refute_enqueued(self, name: object = None, *, payload: Any = msgspec.UNSET, **fields: Unpack[Expected]) -> None:
        """No job matches; without arguments: nothing was enqueued at all. Raises AssertionError with those that do."""
        __tracebackhide__ = True
        what = wanted(name, payload, fields)
        found = matching(self._store.views(), what)
        if found:
            raise AssertionError(found_text(found, what, f"{len(found)} were enqueued"))


def _in_the_middle() -> float:
    """Where jitter adds and takes nothing: delays are what the back-off says."""
    return 0.5
