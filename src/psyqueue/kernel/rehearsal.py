"""A queue started on a stand-in for its store, and afterwards as it was before: what a test kit needs of the kernel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from psyqueue.errors import LifecycleError
from psyqueue.kernel.lifecycle import Lifecycle
from psyqueue.kernel.pipeline import Middleware

if TYPE_CHECKING:
    from psyqueue.backend import BackendAdapter, Delivery
    from psyqueue.clock import Clock
    from psyqueue.kernel.core import Core


class Rehearsal:
    """`start`, then `stop`, once. In between the queue is running; `start()` and `stop()` of its owner do nothing.

    Handlers that are registered meanwhile stay, all other registrations and subscriptions go with the end.
    `first` are middleware that come before all others of their phase; `process_next` stands in for that of the kernel.
    """

    def __init__(
        self,
        core: Core,
        backend: BackendAdapter,
        *,
        clock: Clock,
        chance: Callable[[], float],
        on_failure: Callable[[Delivery, BaseException], None],
        process_next: Callable[[str], Awaitable[bool]],
        takes_workers: bool,
        first: tuple[Middleware, ...] = (),
    ) -> None:
        self.lifecycle: Lifecycle = Lifecycle(core)
        self.process_next: Callable[[str], Awaitable[bool]] = process_next
        self.takes_workers = takes_workers
        self._core = core
        self._backend = backend
        self._time = (clock, chance)
        self._on_failure = on_failure
        self._first = first
        self._undo = ExitStack()

    async def start(self) -> None:
        """Raises LifecycleError for a queue that is running, and what its start raises; then it is as it was."""
        core = self._core
        core.require_own_process()
        if core.state not in ("new", "stopped"):
            raise LifecycleError(
                f"queue {core.name!r} is {core.state}; a test starts it itself. Enter testing() before the application "
                "starts its queue: inside, its own start() and stop() do nothing"
            )
        with ExitStack() as undo:
            self._replace(undo)
            await self.lifecycle.start()
            self._undo = undo.pop_all()

    async def stop(self) -> None:
        """Raises what failed to stop, after all of it."""
        with self._undo:
            await self.lifecycle.stop(0)

    def _replace(self, undo: ExitStack) -> None:
        core = self._core
        registry = core.registry
        undo.callback(setattr, core, "state", core.state)
        undo.callback(setattr, registry, "sealed", registry.sealed)
        undo.callback(core.set_time, core.clock, core.chance)
        undo.callback(setattr, core, "on_failure", core.on_failure)
        undo.callback(setattr, core, "rehearsal", None)
        undo.callback(core.close_channels)
        undo.callback(registry.checkpoint())
        core.rehearsal = self
        core.state, registry.sealed = "new", False
        core.set_time(*self._time)
        core.on_failure = self._on_failure
        registry.stand_in(self._backend)
        registry.put_first(self._first)
