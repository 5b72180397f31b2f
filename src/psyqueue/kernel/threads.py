"""Daemon threads for plain handlers.

Python's own pool joins its threads when the process ends, so that one handler that never returns would keep a stopped
worker alive for ever. These are counted and left behind instead.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from psyqueue.outcome import NotBegun

T = TypeVar("T")

_home = threading.local()


def loop_of_call() -> asyncio.AbstractEventLoop:
    """The loop whose handler this thread runs."""
    loop: asyncio.AbstractEventLoop = _home.loop
    return loop


def call_at_home(loop: asyncio.AbstractEventLoop, context: contextvars.Context, fn: Callable[[], T]) -> T:
    """`fn()` in this thread, for a handler of `loop`."""
    _home.loop = loop
    return context.run(fn)


def hand_over(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """In the loop: what became of a call in a thread. Nobody waits any more for one that was cancelled."""
    if done.cancelled():
        return
    if error is None:
        done.set_result(result)
    elif isinstance(error, StopIteration | GeneratorExit | KeyboardInterrupt):
        # In a coroutine they would mean something else than in the thread: its end, or that of the whole process.
        done.set_exception(RuntimeError(f"handler raised {error!r}"))
    else:
        done.set_exception(error)


class _Call:
    """One function on its way through a thread. What happens to it is decided under the lock of the pool."""

    __slots__ = ("context", "done", "fn", "is_begun", "is_dropped", "loop")

    def __init__(self, fn: Callable[[], Any]) -> None:
        self.fn = fn
        self.context = contextvars.copy_context()
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[Any] = self.loop.create_future()
        self.is_begun = False
        self.is_dropped = False


class Threads:
    """As many threads as are needed at once. `on_return()` is called when an abandoned one came back."""

    def __init__(self, name: str, *, on_return: Callable[[], None] = lambda: None) -> None:
        self._name = name
        self._on_return = on_return
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._idle = 0
        self._started = 0
        self._lock = threading.Lock()
        self.abandoned: int = 0
        """Calls whose caller was cancelled while the thread goes on: each still needs a thread."""

    async def run(self, fn: Callable[[], Any]) -> Any:
        """The result of `fn()` in a thread, in a copy of the caller's context.

        Cancelled: what no thread has begun is not begun any more; what one has begun goes on, counted. Raises NotBegun
        if no thread can be had.
        """
        call = _Call(fn)
        with self._lock:
            if self._idle == 0:
                self._start_thread()
            else:
                self._idle -= 1
        self._calls.put(call)
        try:
            return await call.done
        finally:
            if call.done.cancelled():
                self._give_up(call)
            del call  # an error's traceback holds this frame, and the call the error: a ring

    def close(self) -> None:
        """Idle threads end; busy ones when their handler does, or with the process."""
        for _ in range(self._started):
            self._calls.put(None)

    def _give_up(self, call: _Call) -> None:
        with self._lock:
            call.is_dropped = not call.is_begun
        if not call.is_dropped:
            self.abandoned += 1

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._serve, name=f"{self._name}-{self._started + 1}", daemon=True).start()
        except (RuntimeError, MemoryError) as exc:
            text = f"no thread can be started for a handler here: {exc}. Look at what this process may use"
            raise NotBegun(f"{text}: threads and processes of its user and container, memory") from exc
        self._started += 1

    # ── in the thread ─────────────────────────────────────────────────────────────────────────────────────────────────
    def _serve(self) -> None:
        while self._serve_one():
            pass

    def _serve_one(self) -> bool:
        """A frame of its own for each call, so that an idle thread keeps no payload and no result alive."""
        call = self._calls.get()
        if call is None:
            return False
        with self._lock:
            call.is_begun = not call.is_dropped
            if call.is_dropped:
                self._idle += 1
                return True
        result: Any = None
        error: BaseException | None = None
        try:
            result = call_at_home(call.loop, call.context, call.fn)
        except BaseException as exc:  # noqa: BLE001 - whatever a handler raises belongs to its caller
            error = exc
        with self._lock:
            self._idle += 1
        try:
            call.loop.call_soon_threadsafe(self._hand_over, call.done, result, error)
        except RuntimeError:
            return False  # the loop is closed: the worker is gone
        finally:
            # An error's traceback holds this frame, this frame the error: a ring that only the collector would find.
            error = call = None
        return True

    # ── back in the loop ──────────────────────────────────────────────────────────────────────────────────────────────
    def _hand_over(self, done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        if done.cancelled():
            self.abandoned -= 1
            self._on_return()
        else:
            hand_over(done, result, error)
