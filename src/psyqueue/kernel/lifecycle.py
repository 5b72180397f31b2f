"""Start and stop of a queue: everything in order, everything undone in the opposite order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from psyqueue.errors import AlreadyStopped, LifecycleError
from psyqueue.kernel.aio import spawn
from psyqueue.kernel.enqueue import Enqueuer
from psyqueue.kernel.pipeline import compose
from psyqueue.kernel.services import Services

if TYPE_CHECKING:
    from psyqueue.kernel.core import Core, State

log: logging.Logger = logging.getLogger(__name__)

SUBSCRIBERS_MS = 1_000
"""For async event subscribers to see the last events."""


_imports = 0


@contextlib.contextmanager
def import_of_a_handler() -> Iterator[None]:
    """Inside, no queue of this process starts.

    A module that starts one as it is imported would, in a process that imports it for a handler of `mode="process"`,
    enqueue its jobs again and start a worker with processes of its own, and so on.
    """
    global _imports  # noqa: PLW0603 - one number per process, written only here
    _imports += 1
    try:
        yield
    finally:
        _imports -= 1


def _refuse_in_import(name: str) -> None:
    if _imports:
        raise LifecycleError(
            f"queue {name!r} would start while its module is imported for a handler of mode='process'. "
            'Put what starts it, enqueues or runs the program under `if __name__ == "__main__":`'
        )


class Lifecycle:
    """One start, one stop; a start that failed left nothing behind and may be tried again."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._services = Services(core)
        self._stopping: asyncio.Task[list[Exception]] | None = None

    async def start(self) -> None:
        """Connect, start plugins, start services. Raises what failed, after undoing what had been done.

        AlreadyStopped, if somebody stops it meanwhile.
        """
        core = self._core
        core.require_own_process()
        _refuse_in_import(core.name)
        if self._is_rehearsed_by_other():
            return
        if core.state != "new":
            raise LifecycleError(_started_again(core.name, core.state))
        registry = core.registry
        ordered = registry.order()
        forget = registry.checkpoint()
        store = registry.open_store(core.name)
        core.state, registry.sealed = "starting", True
        core.lifespan.remember_context()
        try:
            await store.connect()
            core.enqueue_chain = compose(registry.middleware, "enqueue")
            core.process_chain = compose(registry.middleware, "process")
            core.open_channels(Enqueuer)
            await registry.start_all(ordered)
            self._require_starting()
        except BaseException:
            await self._close()
            forget()
            core.state, registry.sealed = "stopped" if self._was_stopped() else "new", False
            raise
        core.state = "running"
        self._services.start(registry.services)
        core.bus.publish("kernel:started", {})

    async def stop(self, grace_ms: int | None) -> None:
        """Drain workers, then stop everything; each gets its turn. Raises what failed, after all of it.

        Idempotent: a second caller waits for the first. Whoever is cancelled only stops waiting. A start that is under
        way is not waited for: it ends with AlreadyStopped, and closes what it opened.
        """
        core = self._core
        core.require_own_process()
        if self._is_rehearsed_by_other():
            await self.stop_workers(grace_ms)
            return
        is_first = self._stopping is None
        if is_first:
            if core.state != "running":
                core.state = "stopped"
                return
            core.require_own_loop()
            core.state = "draining"
            self._stopping = spawn(self._stop(grace_ms), name=f"psyqueue-stop-{core.name}")
        assert self._stopping is not None
        # A caller who is cancelled, a handler that stops its own queue for example, leaves it to end by itself.
        if not self._stopping.done():
            core.require_own_loop()
            await asyncio.wait({self._stopping})
        failures = [] if self._stopping.cancelled() else self._stopping.result()
        if not is_first or not failures:
            return
        if len(failures) == 1:
            raise failures[0]
        raise ExceptionGroup(f"queue {core.name!r} stopped, with failures", failures)

    async def _stop(self, grace_ms: int | None) -> list[Exception]:
        core = self._core
        failures: list[Exception] = []
        try:
            await _attempt(failures, "workers", lambda: self.stop_workers(grace_ms))
            await _attempt(failures, "lifespan", core.lifespan.leave)
            core.state = "stopped"
            await _attempt(failures, "enqueues", core.enqueuer.drain)
            await _attempt(failures, "services", self._services.stop)
            failures += await self._close()
            core.bus.publish("kernel:stopped", {})
            await core.bus.drain(SUBSCRIBERS_MS)
        finally:
            core.state = "stopped"
        return failures

    async def stop_workers(self, grace_ms: int | None) -> None:
        """All at once, each with this grace for its running handlers; None is the worker's own."""
        core = self._core
        # They stay known until they ended: a caller that is cancelled stops waiting, and leaves them to others.
        workers = list(core.workers)
        ended = await asyncio.gather(*(worker.drain(grace_ms) for worker in workers), return_exceptions=True)
        core.workers[:] = [worker for worker in core.workers if worker.is_running]
        for worker, failure in zip(workers, ended, strict=True):
            if failure is not None:
                log.error("worker failed to stop", exc_info=failure, extra={"worker": worker.name})
        failed = [failure for failure in ended if isinstance(failure, Exception)]
        if failed:
            raise ExceptionGroup("workers failed to stop", failed)

    def _was_stopped(self) -> bool:
        """Also by another task, while this one starts it."""
        return self._core.state == "stopped"

    def _require_starting(self) -> None:
        if self._was_stopped():
            raise AlreadyStopped(f"queue {self._core.name!r} was stopped while it started; all is closed again")

    def _is_rehearsed_by_other(self) -> bool:
        """Whoever tests the application starts and stops its queue; what the application itself does is no more."""
        rehearsal = self._core.rehearsal
        return rehearsal is not None and rehearsal.lifecycle is not self

    async def _close(self) -> list[Exception]:
        registry = self._core.registry
        failures = await registry.stop_all()
        await _attempt(failures, "store", registry.close_store)
        return failures


async def _attempt(failures: list[Exception], what: str, close: Callable[[], Awaitable[None]]) -> None:
    """One failing close never stops the others."""
    try:
        await close()
    except Exception as exc:
        log.exception("failed to stop", extra={"part": what})
        failures.append(exc)


def _started_again(name: str, state: State) -> str:
    if state in ("starting", "running"):
        return f"queue {name!r} is {state} already: leave this start() out"
    return f"queue {name!r} is {state}, and a queue starts only once: make a new PsyQueue"
