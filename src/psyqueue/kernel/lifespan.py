"""What a process that runs jobs keeps open for all of them: entered before its first run, left after its last."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

from psyqueue.errors import ConfigError, LifecycleError
from psyqueue.kernel.aio import spawn
from psyqueue.kernel.pipeline import label, takes

log: logging.Logger = logging.getLogger(__name__)

LifespanFunction: TypeAlias = Callable[[], AsyncIterator[Any]] | Callable[[], AbstractAsyncContextManager[Any]]


class Lifespan:
    """At most one per queue; `value` is what it yields, None without one.

    It lives in a task of its own from its first line to its last, as scopes of cancellation inside it need.
    """

    def __init__(self) -> None:
        self.value: Any = None
        self._make: Callable[[], AbstractAsyncContextManager[Any]] | None = None
        self._name = ""
        self._entered: asyncio.Future[None] | None = None
        self._left: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()
        self._failure: Exception | None = None
        self._context = contextvars.Context()

    def remember_context(self) -> None:
        """That of the queue's start: what the first run has in its own is not the lifespan's."""
        self._context = contextvars.copy_context()

    def set(self, fn: LifespanFunction) -> None:
        """Raises ConfigError for a second one, and for what is neither an async generator nor a context manager."""
        if self._make is not None:
            raise ConfigError(f"the queue has a lifespan already ({self._name}); enter both in one function")
        if not callable(fn) or not takes(fn, 0):
            raise ConfigError(f"lifespan {fn!r} must be a function without parameters that yields once")
        if inspect.isasyncgenfunction(fn):
            self._make = contextlib.asynccontextmanager(fn)
        elif inspect.iscoroutinefunction(fn) or inspect.isgeneratorfunction(fn):
            raise ConfigError(
                f"lifespan {label(fn)} must yield once in an `async def`: async def f(): ...; yield value"
            )
        else:
            self._make = fn  # type: ignore[assignment]  # made by @asynccontextmanager; else entering it fails
        self._name = label(fn)

    async def enter(self) -> None:
        """Until it is entered; once for all workers. Raises what it raises; the next caller tries again."""
        if self._make is None:
            return
        if self._entered is None or (self._entered.done() and self._entered.exception() is not None):
            self._entered = asyncio.get_running_loop().create_future()
            work = self._live(self._make, self._entered)
            self._left = spawn(work, name="psyqueue-lifespan", context=self._context.copy())
        # Who is cancelled while he waits leaves it to the others.
        await asyncio.shield(self._entered)

    async def leave(self) -> None:
        """Until it is left; it may be entered anew. Raises what it raises, also what ended it before.

        One that is still being entered is cancelled: what it waits for may never come.
        """
        if self._left is None or self._entered is None:
            return
        self._leave.set()
        if not self._entered.done():
            self._left.cancel()
        await asyncio.wait({self._left})
        failure = self._failure
        # A queue that is tested is started many times.
        self._entered = self._left = self._failure = None
        self._leave = asyncio.Event()
        if failure is not None:
            raise failure

    async def _live(self, make: Callable[[], AbstractAsyncContextManager[Any]], entered: asyncio.Future[None]) -> None:
        try:
            async with make() as self.value:
                entered.set_result(None)
                await self._leave.wait()
        except Exception as exc:
            if not entered.done():
                entered.set_exception(exc)
                return
            log.exception("lifespan failed", extra={"lifespan": self._name})
            self._failure = exc
        finally:
            self.value = None
            if not entered.done():
                entered.set_exception(LifecycleError(f"lifespan {self._name} was cancelled before it yielded"))
