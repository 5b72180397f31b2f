"""Runs the jobs of a test: the kernel's own way of one job (`process_next`), again and again, and time between.

In virtual time a run is waited for until it ended or sleeps. Those that sleep stay `_aloft`: others start meanwhile, as
they would beside it in a worker, and time moves on to whatever is next: a timer of a run, a job that is due.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from psyqueue.backend import Delivery
from psyqueue.errors import InvalidState, JobDead
from psyqueue.events import Event
from psyqueue.kernel.aio import next_turn, settle_down, spawn, wait_any
from psyqueue.kernel.loop_thread import ThreadCall, waiting_call
from psyqueue.kernel.single import process_one
from psyqueue.outcome import Verdict
from psyqueue.testing.callers_thread import CallersThread
from psyqueue.testing.faults import StillRunning, TooManyRuns
from psyqueue.testing.virtual_time import Scope, VirtualTime, current_scope

if TYPE_CHECKING:
    from psyqueue.kernel.core import Core
    from psyqueue.testing.stand_in import StandIn

_REFUSED = ("result", "too_large")
BREATHS = 20
"""Turns of the loop for services that are awake, to do what they can do without waiting for anything real."""


class Failure(Struct, frozen=True):
    """What a handler raised, itself; `attempt` of job `job_id` ended with it."""

    job_id: str
    name: str
    queue: str
    attempt: int
    error: BaseException


class Flight(Scope):
    """One run, from the look for a job in `queue` to its settled end. No job: none was found (yet)."""

    work: asyncio.Task[bool]

    def __init__(self, queue: str, time: VirtualTime | None) -> None:
        super().__init__(time)
        self.queue = queue

    @property
    def is_at_rest(self) -> bool:
        return self.work.done() or self.is_asleep


class Engine:
    """`time` is None in real time. `failures` gathers what ended runs, oldest first."""

    def __init__(
        self,
        core: Core,
        store: StandIn,
        time: VirtualTime | None,
        *,
        patience_ms: int,
        on_expired: Callable[[list[str]], None],
    ) -> None:
        self.failures: list[Failure] = []
        self._core = core
        self._store = store
        self._time = time
        self._patience_ms = patience_ms
        self._on_expired = on_expired
        self._aloft: list[Flight] = []
        self._turn = asyncio.Lock()
        self._unraised = 0
        self._caller: ThreadCall[Any] | None = None
        if time is not None:
            time.on_timer = self._notice
        self._news: asyncio.Future[None] | None = None

    # ── told from outside ─────────────────────────────────────────────────────────────────────────────────────────────
    def failed(self, delivery: Delivery, error: BaseException) -> None:
        """A run failed; verdicts are no failures."""
        if not isinstance(error, Verdict):
            self.failures.append(Failure(delivery.id, delivery.name, delivery.queue, delivery.attempt, error))

    def died(self, event: Event) -> None:
        """A job is dead. Of what was refused after its handler had returned, only the store's error is left."""
        data = event.data
        if data["reason"] not in _REFUSED or self._knows(data["job_id"], data["attempt"]):
            return
        error = JobDead(data["job_id"], data["reason"], data["error"])
        self.failures.append(Failure(data["job_id"], data["name"], data["queue"], data["attempt"], error))

    def _knows(self, job_id: str, attempt: int) -> bool:
        return any((each.job_id, each.attempt) == (job_id, attempt) for each in self.failures)

    def started(self, event: Event) -> None:
        """A run begins, in the very task and context of its handler."""
        scope = current_scope()
        if isinstance(scope, Flight) and scope.job is None:
            scope.job, scope.slot = event, asyncio.current_task()

    # ── run ───────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def run(self, *, until_ms: int | None, limit: int, raise_errors: bool) -> int:
        """Everything that is pending, and in virtual time everything that becomes so by `until_ms`; how many runs.

        Without `until_ms` time moves only for handlers that sleep. One caller at a time, the others wait. Raises what a
        handler raised, TooManyRuns, StillRunning; InvalidState inside of a handler.
        """
        if current_scope() is not None:
            raise InvalidState(
                "a handler cannot run the jobs of its test, or move its time: it is part of that. One that shall take "
                "its time awaits asyncio.sleep"
            )
        async with self._my_turn():
            runs: Counter[tuple[str, str]] = Counter()
            if until_ms is not None:
                await _breathe()
            while True:
                self._on_expired(await self._store.promote_due())
                if await self._wave(runs, limit, raise_errors=raise_errors):
                    continue
                at_ms = self._next_at_ms(until_ms)
                if at_ms is None:
                    break
                await self._move(at_ms)
                self._raise_first(raise_errors)
            if until_ms is not None:
                await self._set_clock(until_ms)
            return runs.total()

    async def run_next(self, queue: str) -> bool:
        """As `process_one`: its job and no other. Time moves only if the handler sleeps. Raises StillRunning.

        Inside of a handler it is a part of that run.
        """
        if current_scope() is not None:
            return await process_one(self._core, queue)
        async with self._my_turn():
            self._on_expired(await self._store.promote_due())
            flight = self._launch(queue)
            try:
                await self._watch(flight)
                while not flight.work.done() and (at_ms := self._next_at_ms(None)) is not None:
                    await self._move(at_ms)
                    self._on_expired(await self._store.promote_due())
            except asyncio.CancelledError:
                await self._drop(flight)
                raise
            return flight.work.result()

    @asynccontextmanager
    async def _my_turn(self) -> AsyncIterator[None]:
        async with self._turn:
            self._unraised = len(self.failures)
            self._caller = waiting_call()
            yield

    def _waiting(self) -> ThreadCall[Any] | None:
        """Of the thread that waits for the present run of jobs, if it is one without a loop."""
        return self._caller if self._caller is not None and self._caller.is_waited_for else None

    async def close(self) -> None:
        """What still runs is stopped, and its job handed back."""
        for flight in self._aloft:
            flight.work.cancel()
        await settle_down([flight.work for flight in self._aloft], self._patience_ms)
        self._aloft.clear()

    async def _wave(self, runs: Counter[tuple[str, str]], limit: int, *, raise_errors: bool) -> bool:
        """Every job that is pending now, one after the other, oldest first. False: none could start."""
        has_run = False
        for queue in self._store.pending_queues():
            flight = self._launch(queue)
            await self._watch(flight)
            if flight.job is None and not (flight.work.done() and flight.work.result()):
                continue
            has_run = True
            if flight.job is not None:
                runs[flight.job.data["name"], queue] += 1
            self._raise_first(raise_errors)
            if runs.total() >= limit and flight.job is not None and (left := len(self._store.pending_queues())):
                (name, where), most = runs.most_common(1)[0]
                raise TooManyRuns(limit, name, where, most, flight.job.data["job_id"], left)
        return has_run

    def _launch(self, queue: str) -> Flight:
        flight = Flight(queue, self._time)
        work = process_one(self._core, queue, CallersThread(self._waiting))
        flight.work = spawn(work, name="psyqueue-test-run", context=flight.context())
        flight.work.add_done_callback(lambda _: self._notice())
        self._aloft.append(flight)
        return flight

    async def _watch(self, flight: Flight) -> None:
        """Until it has ended, or sleeps."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._patience_ms / 1000
        while not flight.is_at_rest:
            self._news = loop.create_future()
            left_ms = (give_up_at - loop.time()) * 1000
            if left_ms <= 0:
                await self._give_up(flight)
            await wait_any(self._news, timeout_ms=left_ms)
            # A timer was set: one turn later its owner waits for it.
            await next_turn()
        if flight.work.done():
            self._aloft.remove(flight)
            flight.work.result()

    async def _give_up(self, flight: Flight) -> None:
        await self._drop(flight)
        facts = {"name": "?", "job_id": "?"} if flight.job is None else flight.job.data
        raise StillRunning(facts["name"], flight.queue, facts["job_id"], self._patience_ms)

    async def _drop(self, flight: Flight) -> None:
        """Its job is handed back."""
        flight.work.cancel()
        await settle_down([flight.work], self._patience_ms)
        if flight in self._aloft:
            self._aloft.remove(flight)

    def _notice(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _raise_first(self, raise_errors: bool) -> None:  # noqa: FBT001 - the one thing that it is asked
        """The first error since `run` began, or since the last one that was raised."""
        new = self.failures[self._unraised :]
        if not raise_errors or not new:
            return
        self._unraised = len(self.failures)
        first = new[0]
        first.error.add_note(
            f"raised by job {first.job_id}, {first.name!r} on {first.queue!r}, attempt {first.attempt}. "
            "raise_errors=False lets the queue deal with it"
        )
        raise first.error

    # ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _next_at_ms(self, until_ms: int | None) -> int | None:
        """The next instant to stop at; None: there is none, or it is not wanted."""
        if self._time is None:
            return None
        timer_ms, due_ms = self._time.next_at_ms(), self._store.next_at_ms()
        if until_ms is None and (not self._aloft or timer_ms is None):
            return None
        instants = [at_ms for at_ms in (timer_ms, due_ms) if at_ms is not None]
        at_ms = min(instants, default=None)
        return at_ms if until_ms is None or (at_ms is not None and at_ms <= until_ms) else None

    async def _move(self, at_ms: int) -> None:
        await self._set_clock(at_ms)
        assert self._time is not None
        if self._time.fire():
            await _breathe()
            for flight in list(self._aloft):
                await self._watch(flight)

    async def _set_clock(self, at_ms: int) -> None:
        now_ms = self._store.now_ms()
        if at_ms > now_ms:
            await self._store.advance_clock(at_ms - now_ms)


async def _breathe() -> None:
    for _ in range(BREATHS):
        await next_turn()
