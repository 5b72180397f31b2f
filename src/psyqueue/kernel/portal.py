"""The way from programs without asyncio into the event loop of a queue, and back with the result."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from asyncio import _get_running_loop as _running_loop
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from psyqueue.errors import AlreadyStopped, LifecycleError
from psyqueue.kernel.core import FROM_OTHER_LOOP
from psyqueue.kernel.loop_thread import LoopThread, call_into

if TYPE_CHECKING:
    from psyqueue.kernel.core import Core
    from psyqueue.kernel.lifecycle import Lifecycle

T = TypeVar("T")

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
        self._thread: LoopThread | None = None
        _portals.add(self)

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `make()`, which is called and awaited on the queue's loop in the caller's context.

        Raises what it raises; LifecycleError inside of a running event loop, AlreadyStopped, ForkedProcess. A caller
        that is interrupted (Ctrl-C) cancels it.
        """
        self.require_blocking()
        return call_into(self._open(), make, self._closed)

    def start(self) -> None:
        """Start the queue, if nobody did. Raises as PsyQueue.start, and as `run`."""
        self.require_blocking()
        self._open()

    def stop(self, grace_ms: int | None) -> None:
        """Stop the queue, and end the thread if it has one. Idempotent. Raises as PsyQueue.stop."""
        self.require_blocking()
        core = self._core
        with self._lock:
            loop = core.loop if self._thread is None else self._thread.loop
            if core.state == "new" or loop is None:
                core.state = "stopped"
                return
            if loop.is_closed():
                return
        try:
            call_into(loop, lambda: self._lifecycle.stop(grace_ms), self._closed)
        finally:
            self._end_thread()

    def require_blocking(self) -> None:
        """Raises LifecycleError inside of a running event loop, ForkedProcess."""
        if (running := _running_loop()) is not None:
            raise self._in_loop(running)
        self._core.require_own_process()

    def _in_loop(self, running: asyncio.AbstractEventLoop) -> LifecycleError:
        """A call that blocks would stop the loop. The way out depends on whose it is."""
        own = self._core.loop
        await_it = "Leave `.sync` out and await the call: await handler.enqueue(...)"
        other = f"where each request has a loop of its own (async views of Flask, Django): {FROM_OTHER_LOOP}"
        if own is running:
            way_out = await_it
        elif own is None:
            way_out = f"{await_it}; or, {other}"
        else:
            way_out = f"The queue was started on another one: {FROM_OTHER_LOOP}"
        return LifecycleError(
            f"a sync call of queue {self._core.name!r} would block the event loop that runs in this thread. {way_out}"
        )

    def at_exit(self) -> None:
        """Nobody waits for running handlers any more: they are handed back."""
        if self._thread is not None:
            self._thread.end_with_process(lambda: self._lifecycle.stop(0), EXIT_S)

    def after_fork(self) -> None:
        """In the child the thread does not exist, and a lock may be held by nobody."""
        self._lock = threading.Lock()
        self._thread = None

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _open(self) -> asyncio.AbstractEventLoop:
        core = self._core
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
        self._thread = LoopThread(f"psyqueue-sync-{self._core.name}")
        try:
            call_into(self._thread.loop, self._lifecycle.start, self._closed)
        except BaseException:
            self._end_thread()
            raise

    def _end_thread(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.end()

    def _closed(self) -> AlreadyStopped:
        return AlreadyStopped(
            f"queue {self._core.name!r} is stopped, or its event loop was closed; make a new PsyQueue"
        )


_portals: weakref.WeakSet[Portal] = weakref.WeakSet()


def _stop_all() -> None:
    for portal in list(_portals):
        portal.at_exit()


def _renew_all() -> None:
    for portal in list(_portals):
        portal.after_fork()


atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_all)
