"""The way from programs without asyncio into the event loop of a queue, and back with the result."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import queue
import threading
import weakref
from asyncio import _get_running_loop as _running_loop
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from psyqueue.errors import AlreadyStopped, LifecycleError
from psyqueue.kernel.aio import call_in, spawn

if TYPE_CHECKING:
    from psyqueue.kernel.core import Core
    from psyqueue.kernel.lifecycle import Lifecycle

R = TypeVar("R")
T = TypeVar("T")

LOOK_S = 1.0
"""A caller whose loop was closed under it notices this late at most; replies wake it at once."""
EXIT_S = 10.0
"""A queue that does not stop within this time does not keep the process from ending."""


class Portal:
    """Runs coroutines of one queue for callers that block.

    A queue that was started with `await` is used on its own loop, from any other thread. One that was not is started
    by the first call, on the loop of one background thread, and stopped by `stop` or at the end of the process.
    """

    def __init__(self, core: Core, lifecycle: Lifecycle) -> None:
        self._core = core
        self._lifecycle = lifecycle
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_exiting = False
        _portals.add(self)

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `make()`, which is called and awaited on the queue's loop in the caller's context.

        Raises what it raises; LifecycleError inside of a running event loop, AlreadyStopped, ForkedProcess. A caller
        that is interrupted (Ctrl-C) cancels it.
        """
        self._refuse_in_loop()
        return self._wait(self._open(), make)

    def start(self) -> None:
        """Start the queue, if nobody did. Raises as PsyQueue.start, and as `run`."""
        self._refuse_in_loop()
        self._open()

    def stop(self, grace_ms: int | None) -> None:
        """Stop the queue, and end the thread if it has one. Idempotent. Raises as PsyQueue.stop."""
        core = self._core
        self._refuse_in_loop()
        core.require_own_process()
        with self._lock:
            loop = self._loop if self._thread is not None else core.loop
            if core.state == "new" or loop is None:
                core.state = "stopped"
                return
            if loop.is_closed():
                return
        try:
            self._wait(loop, lambda: self._lifecycle.stop(grace_ms))
        finally:
            self._end_thread()

    def at_exit(self) -> None:
        """Nobody waits for running handlers any more: they are handed back."""
        loop = self._loop
        if self._thread is None or loop is None or loop.is_closed():
            return
        self._is_exiting = True
        call_in(loop, self._begin_exit, loop)
        self._thread.join(EXIT_S)

    def after_fork(self) -> None:
        """In the child the thread does not exist, and a lock may be held by nobody."""
        self._lock = threading.Lock()
        self._thread = self._loop = None

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _refuse_in_loop(self) -> None:
        if _running_loop() is not None:
            raise LifecycleError(
                f"a sync call of queue {self._core.name!r} would block the event loop that runs in this thread. "
                "Leave `.sync` out and await the call: await handler.enqueue(...)"
            )

    def _open(self) -> asyncio.AbstractEventLoop:
        core = self._core
        core.require_own_process()
        if core.state != "running":
            with self._lock:
                # Whoever had the lock before us may have started it.
                if core.state == "new":
                    self._start_thread()
        loop = core.loop
        if loop is None or loop.is_closed():
            raise self._closed()
        return loop

    def _start_thread(self) -> None:
        loop = asyncio.new_event_loop()
        name = f"psyqueue-sync-{self._core.name}"
        # A daemon: else the interpreter would wait for it before anybody is asked to stop.
        thread = threading.Thread(target=self._serve, args=(loop,), name=name, daemon=True)
        self._loop, self._thread = loop, thread
        thread.start()
        try:
            self._wait(loop, self._lifecycle.start)
        except BaseException:
            self._end_thread()
            raise

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the thread; the queue lives as long as it does."""
        runner = asyncio.Runner(loop_factory=lambda: loop)
        runner.get_loop().run_forever()
        if self._is_exiting:
            loop.close()  # the runner would wait for threads, and needs one to wait in: none starts any more
        else:
            runner.close()

    def _end_thread(self) -> None:
        thread, loop = self._thread, self._loop
        if thread is not None and loop is not None:
            call_in(loop, loop.stop)
            thread.join()
        self._thread = self._loop = None

    def _begin_exit(self, loop: asyncio.AbstractEventLoop) -> None:
        stopping = spawn(self._lifecycle.stop(0), name="psyqueue-exit")
        stopping.add_done_callback(lambda _: loop.stop())

    # ── one call ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _wait(self, loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        call = _Call(make, self._closed)
        try:
            self._begin(call, loop)
            return self._reply_to(call, loop)
        except BaseException:
            # Ctrl-C may come between any two lines: what has begun is cancelled all the same.
            call_in(loop, call.cancel)
            raise
        finally:
            del call  # an error's traceback holds this frame, and the call the error: a ring

    def _begin(self, call: _Call[Any], loop: asyncio.AbstractEventLoop) -> None:
        """In a copy of the caller's context: middleware and tracing find what it holds."""
        try:
            loop.call_soon_threadsafe(call.begin)
        except RuntimeError as exc:
            raise self._closed() from exc

    def _reply_to(self, call: _Call[T], loop: asyncio.AbstractEventLoop) -> T:
        while not call.serve(LOOK_S):
            if loop.is_closed():
                raise self._closed()
        return call.reply()

    def _closed(self) -> AlreadyStopped:
        return AlreadyStopped(
            f"queue {self._core.name!r} is stopped, or its event loop was closed; make a new PsyQueue"
        )


class _Call(Generic[T]):
    """One call on its way through the loop, and what the loop asks of the thread that waits for it."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]], closed: Callable[[], AlreadyStopped]) -> None:
        self._make = make
        self._closed = closed
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
        """`fn()`, called in the thread that waits for this call."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()

        def act() -> None:
            try:
                result = fn()
            except Exception as exc:  # noqa: BLE001 - it goes through the call, and comes back from there
                call_in(loop, _answer, answer, None, exc)
            else:
                call_in(loop, _answer, answer, result, None)

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
            self._error = self._closed()
            raise
        except Exception as exc:  # noqa: BLE001 - it is the caller's
            self._error = exc
        except BaseException as exc:
            self._error = exc
            raise
        finally:
            self._task = None
            self._is_over = True
            self._asked.put(None)


async def in_callers_thread(fn: Callable[[], R]) -> R:
    """`fn()` in the thread that waits for this call; right here if none does."""
    call = _call.get()
    return await call.ask(fn) if call is not None and call.is_waited_for else fn()


def _answer(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.cancelled():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)


_call: contextvars.ContextVar[_Call[Any] | None] = contextvars.ContextVar("psyqueue-sync-call", default=None)
_portals: weakref.WeakSet[Portal] = weakref.WeakSet()


def _stop_all() -> None:
    for portal in list(_portals):
        portal.at_exit()


def _renew_all() -> None:
    for portal in list(_portals):
        portal.after_fork()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_renew_all)
