"""Calls into an event loop from a thread that blocks until the result is there, and a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar, cast

from psyqueue.kernel.aio import call_in, spawn
from psyqueue.kernel.threads import hand_over

R = TypeVar("R")
T = TypeVar("T")

LOOK_S = 1.0
"""A caller whose loop was closed under it notices this late at most; replies wake it at once."""


class LoopThread:
    """An event loop that runs in a daemon thread from now to `end`."""

    def __init__(self, name: str) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self._is_exiting = False
        # A daemon: else the interpreter would wait for it before anybody is asked to stop.
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop and close the loop, and wait until the thread has ended. What still runs on it is cancelled."""
        call_in(self.loop, self.loop.stop)
        self._thread.join()

    def end_with_process(self, last: Callable[[], Coroutine[Any, Any, None]], limit_s: float) -> None:
        """Run `last()`, then `end`, while the interpreter ends; after `limit_s` it is left alone."""
        self._is_exiting = True
        call_in(self.loop, self._begin_exit, last)
        self._thread.join(limit_s)

    def _serve(self) -> None:
        runner = asyncio.Runner(loop_factory=lambda: self.loop)
        runner.get_loop().run_forever()
        if self._is_exiting:
            self.loop.close()  # the runner would wait for threads, and needs one to wait in: none starts any more
        else:
            runner.close()

    def _begin_exit(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        spawn(last(), name="psyqueue-exit").add_done_callback(lambda _: self.loop.stop())


def call_into(
    loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, T]], closed: Callable[[], Exception]
) -> T:
    """The result of `make()`, which is called and awaited on `loop` in a copy of the caller's context.

    Raises what it raises; `closed()` for a loop that is closed, or was meanwhile. A caller that is interrupted (Ctrl-C)
    cancels it.
    """
    call = ThreadCall(make, closed)
    try:
        _begin(call, loop)
        return _reply_to(call, loop)
    except BaseException:
        # Ctrl-C may come between any two lines: what has begun is cancelled all the same.
        call_in(loop, call.cancel)
        raise
    finally:
        del call  # an error's traceback holds this frame, and the call the error: a ring


def _begin(call: ThreadCall[Any], loop: asyncio.AbstractEventLoop) -> None:
    """In a copy of the caller's context: middleware and tracing find what it holds."""
    try:
        loop.call_soon_threadsafe(call.begin)
    except RuntimeError as exc:
        raise call.closed() from exc


def _reply_to(call: ThreadCall[T], loop: asyncio.AbstractEventLoop) -> T:
    while not call.serve(LOOK_S):
        if loop.is_closed():
            raise call.closed()
    return call.reply()


class ThreadCall(Generic[T]):
    """One call on its way through the loop, and what the loop asks of the thread that waits for it."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]], closed: Callable[[], Exception]) -> None:
        self._make = make
        self.closed: Callable[[], Exception] = closed
        self._asked: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._task: asyncio.Task[None] | None = None
        self._is_cancelled = False
        self._is_over = False
        self._result: T | None = None
        self._error: BaseException | None = None

    # ── in the caller's thread ────────────────────────────────────────────────────────────────────────────────────────
    def serve(self, limit_s: float) -> bool:
        """Do what is asked next. True: the reply is there. False after a request, and when the time is over."""
        try:
            asked = self._asked.get(timeout=limit_s)
        except queue.Empty:
            return False
        if asked is None:
            return True
        asked()
        return False

    def reply(self) -> T:
        error, self._error = self._error, None
        if error is None:
            return cast("T", self._result)
        try:
            raise error
        finally:
            del error  # its traceback holds this frame: a ring

    # ── in the loop ───────────────────────────────────────────────────────────────────────────────────────────────────
    def begin(self) -> None:
        if not self._is_cancelled:
            _call.set(self)
            self._task = spawn(self._run(), name="psyqueue-sync-call")

    def cancel(self) -> None:
        self._is_cancelled = True
        if self._task is not None:
            self._task.cancel()

    async def ask(self, fn: Callable[[], R]) -> R:
        """`fn()`, called in the thread that waits for this call. What only ends programs (Ctrl-C) is raised there."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()

        def act() -> None:
            if answer.cancelled():
                return
            try:
                result = fn()
            except (Exception, SystemExit) as exc:  # noqa: BLE001 - it goes through the call, and comes back from there
                call_in(loop, hand_over, answer, None, exc)
            else:
                call_in(loop, hand_over, answer, result, None)

        self._asked.put(act)
        return await answer

    @property
    def is_waited_for(self) -> bool:
        """What it left behind in the background has its context, too."""
        return not self._is_over and not self._is_cancelled

    async def _run(self) -> None:
        try:
            self._result = await self._make()
        except asyncio.CancelledError:
            self._error = self.closed()
            raise
        except BaseException as exc:  # noqa: BLE001 - it is the caller's; SystemExit would end this loop
            self._error = exc
        finally:
            self._task = None
            self._is_over = True
            self._asked.put(None)


def waiting_call() -> ThreadCall[Any] | None:
    """The one that this code is part of, while a thread waits for it."""
    call = _call.get()
    return call if call is not None and call.is_waited_for else None


async def in_callers_thread(fn: Callable[[], R]) -> R:
    """`fn()` in the thread that waits for this call; right here if none does."""
    call = waiting_call()
    return fn() if call is None else await call.ask(fn)


_call: contextvars.ContextVar[ThreadCall[Any] | None] = contextvars.ContextVar("psyqueue-sync-call", default=None)
