"""Time that passes only when a test says so, for everything that runs inside of a `Scope`.

The loop's `time`, `call_at` and `call_later` are replaced on the loop object itself; outside of scopes they answer as
before. So what a handler sleeps, and what limits it, counts in the time of the store, whichever way it was imported:
`asyncio.sleep`, `asyncio.timeout`, the `timeout` of its job. Sockets, threads and processes take their real time.
(docs/adr/0013)
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any
from weakref import WeakKeyDictionary

from psyqueue.clock import SystemClock
from psyqueue.events import Event


class StoreClock(SystemClock):
    """The process's clock, with the wall time of a store. Sleeps take virtual time inside of scopes."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms()


class Scope:
    """One run of a job, or everything beside the runs. `time` is None where real time counts.

    `job` is the event of its start, `slot` what runs the handler; both are set by whoever is told of the start.
    """

    def __init__(self, time: VirtualTime | None) -> None:
        self.time = time
        self.job: Event | None = None
        self.slot: asyncio.Task[Any] | None = None

    def context(self) -> Context:
        """A copy of the caller's context, inside of this scope."""
        inside = copy_context()
        inside.run(_scope.set, self)
        return inside

    @property
    def is_asleep(self) -> bool:
        """Whether nothing but time will wake the handler: it awaits a sleep that is not over."""
        awaited = getattr(self.slot, "_fut_waiter", None)
        return self.time is not None and awaited is not None and self.time.is_sleep(awaited)


class Timer(asyncio.TimerHandle):
    """One that its loop knows nothing of; `inside` is the context of its callback."""

    __slots__ = ("inside",)

    def __init__(
        self,
        when: float,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        inside: Context,
    ) -> None:
        super().__init__(when, callback, args, loop, inside)
        self.inside: Context = inside

    def cancel(self) -> None:
        asyncio.Handle.cancel(self)


class VirtualTime:
    """Timers in the time of a store; `on_timer` is called after one was set. `fire` calls those that are due."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now_ms: Callable[[], int]) -> None:
        self.on_timer: Callable[[], None] = _nobody
        self.is_over = False
        self._loop = loop
        self._now_ms = now_ms
        self._start_ms = now_ms()
        self._start_s = loop.time()
        self._timers: list[tuple[int, int, asyncio.TimerHandle, Callable[[], None]]] = []
        self._sleeps: dict[asyncio.Future[Any], asyncio.TimerHandle] = {}
        self._set = 0

    def loop_time(self) -> float:
        """Seconds, as `loop.time()` would be if time had gone on as it did here."""
        return self._start_s + (self._now_ms() - self._start_ms) / 1000

    def call_at(
        self, when: float, callback: Callable[..., Any], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.TimerHandle:
        """As `loop.call_at`."""
        inside = copy_context() if context is None else context
        handle = Timer(when, callback, args, self._loop, inside)
        # A thousandth of a millisecond is rounding, not waiting.
        due_ms = self._start_ms + math.ceil((when - self._start_s) * 1000 - 0.001)
        self._set += 1
        entry = (due_ms, self._set, handle, lambda: self._call_soon(handle, callback, args))
        heapq.heappush(self._timers, entry)
        if args and isinstance(args[0], asyncio.Future) and getattr(callback, "__name__", "") == _ENDS_A_SLEEP:
            self._sleeps[args[0]] = handle
        self.on_timer()
        return handle

    def next_at_ms(self) -> int | None:
        """When the first timer is due; None without one."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def fire(self) -> bool:
        """Call what is due by now, in order, in the next turn of the loop. False: nothing was."""
        now_ms, fired = self._now_ms(), False
        while (at_ms := self.next_at_ms()) is not None and at_ms <= now_ms:
            *_, call = heapq.heappop(self._timers)
            call()
            fired = True
        return fired

    def is_sleep(self, awaited: asyncio.Future[Any]) -> bool:
        """Whether a timer that is still to come is all that ends it."""
        self._sleeps = {
            sleep: timer for sleep, timer in self._sleeps.items() if not (sleep.done() or timer.cancelled())
        }
        return awaited in self._sleeps

    def _call_soon(self, handle: Timer, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], asyncio.Future):
            self._sleeps.pop(args[0], None)
        self._loop.call_soon(_unless_cancelled, handle, callback, args, context=handle.inside)


def _unless_cancelled(timer: Timer, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """One that was due in the same turn may have cancelled it, as a timeout does that is left."""
    if not timer.cancelled():
        callback(*args)


_ENDS_A_SLEEP = "_set_result_unless_cancelled"
"""What `asyncio.sleep` leaves with the loop. Where another Python does it otherwise, sleep is waited for as work is."""
_scope: ContextVar[Scope | None] = ContextVar("psyqueue-scope", default=None)
_users: WeakKeyDictionary[asyncio.AbstractEventLoop, int] = WeakKeyDictionary()
"""How many tests have their time on a loop: two queues may be tested at once."""


def current_scope() -> Scope | None:
    """That of the caller; None outside of all."""
    return _scope.get()


def install(loop: asyncio.AbstractEventLoop) -> None:
    """Let scopes have their own time on this loop, until `uninstall` was called as often.

    A loop whose object takes no attributes cannot: handlers there sleep in real time.
    """
    _users[loop] = _users.get(loop, 0) + 1
    if _users[loop] > 1 or not hasattr(loop, "__dict__"):
        return
    real_time, real_call_at, real_call_later = loop.time, loop.call_at, loop.call_later

    def time() -> float:
        virtual = _time()
        return real_time() if virtual is None else virtual.loop_time()

    def call_at(
        when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        virtual = _time()
        if virtual is None:
            return real_call_at(when, callback, *args, context=context)
        return virtual.call_at(when, callback, args, context)

    def call_later(
        delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        virtual = _time()
        if virtual is None:
            return real_call_later(delay, callback, *args, context=context)
        return virtual.call_at(virtual.loop_time() + delay, callback, args, context)

    vars(loop).update(time=time, call_at=call_at, call_later=call_later)


def uninstall(loop: asyncio.AbstractEventLoop) -> None:
    """Take back one `install`."""
    _users[loop] -= 1
    if _users[loop] == 0:
        del _users[loop]
        for name in ("time", "call_at", "call_later"):
            getattr(loop, "__dict__", {}).pop(name, None)


def _time() -> VirtualTime | None:
    """The caller's; None is real. A test that is over left things behind that live on in real time."""
    scope = _scope.get()
    return None if scope is None or scope.time is None or scope.time.is_over else scope.time


def _nobody() -> None:
    """There is no run to look at."""
