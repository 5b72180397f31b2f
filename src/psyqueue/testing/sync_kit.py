"""`with q.sync.testing() as t`: the kit for tests without asyncio. Each method is that of `Kit`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from datetime import datetime
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

from psyqueue.errors import InvalidState
from psyqueue.kernel.facade import Facade, blocking
from psyqueue.kernel.loop_thread import LoopThread, call_into
from psyqueue.kernel.portal import Portal
from psyqueue.testing.engine import Failure
from psyqueue.testing.kit import Kit
from psyqueue.testing.timeline import History

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def direct(method: Callable[Concatenate[T, P], R]) -> Callable[Concatenate[Facade[T], P], R]:
    """The method itself: it only looks, and may be called from any thread."""

    @functools.wraps(method)
    def call(self: Facade[T], /, *args: P.args, **kwargs: P.kwargs) -> R:
        __tracebackhide__ = True
        return method(self._target, *args, **kwargs)

    return call


class Stage:
    """The event loop of one test, in a background thread. The portal of the queue leads there, too, while it lasts."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal
        self._thread: LoopThread | None = None

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """As Portal.run. Raises InvalidState before the test and after it."""
        self._portal.require_blocking()
        if self._thread is None:
            raise self._not_on()
        return call_into(self._thread.loop, make, self._not_on)

    def begin(self) -> None:
        self._portal.require_blocking()
        self._thread = LoopThread("psyqueue-test")

    def end(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.end()

    def _not_on(self) -> InvalidState:
        return InvalidState("the test has not begun, or is over: `with q.sync.testing() as t:`")


class SyncKit(Facade[Kit]):
    """Made by `q.sync.testing`, entered once. `q.sync` and `handler.sync` enqueue into it.

    Plain handlers run in the thread that calls `drain` or `advance`, others on the event loop of a background thread.
    """

    __slots__ = ("_stage",)

    def __init__(self, portal: Portal, kit: Kit) -> None:
        self._stage = Stage(portal)
        super().__init__(self._stage, kit)

    def __enter__(self) -> Self:
        """Raises as Kit, and LifecycleError inside of a running event loop."""
        self._stage.begin()
        try:
            self._stage.run(self._target.__aenter__)
        except BaseException:
            self._stage.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stage.run(lambda: self._target.__aexit__(kind, error, trace))
        finally:
            self._stage.end()

    drain: Final = blocking(Kit.drain)
    advance: Final = blocking(Kit.advance)
    idle: Final = blocking(Kit.idle)

    job: Final = direct(Kit.job)
    enqueued: Final = direct(Kit.enqueued)
    assert_enqueued: Final = direct(Kit.assert_enqueued)
    refute_enqueued: Final = direct(Kit.refute_enqueued)

    @property
    def history(self) -> History:
        """What happened, in order."""
        return self._target.history

    @property
    def failures(self) -> list[Failure]:
        """As Kit.failures."""
        return self._target.failures

    @property
    def now(self) -> datetime:
        """As Kit.now."""
        return self._target.now
