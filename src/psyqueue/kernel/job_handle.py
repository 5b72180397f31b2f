"""A job as its caller holds it: look at it, wait for it, cancel it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from msgspec import Struct

from psyqueue.clock import Duration, to_ms
from psyqueue.errors import (
    JobCancelled,
    JobDead,
    JobNotFound,
    ResultTimeout,
    StoreBusy,
    StoreError,
    StoreUnavailable,
)
from psyqueue.kernel.aio import spawn
from psyqueue.kernel.cancels import cancel_job
from psyqueue.kernel.core import Core  # at run time: the signature of a struct is made of it
from psyqueue.kernel.ops import GIVE_UP_MS
from psyqueue.kernel.queries import get_view
from psyqueue.kernel.views import JobView

R_co = TypeVar("R_co", covariant=True)

LOOK_AGAIN_MS = 1_000
"""A store's signal may get lost; then a result is found this much later."""


class JobHandle(Struct, Generic[R_co], eq=False):
    """Returned by every enqueue; `str(handle)` is the id. `created` is False when the job was there before."""

    id: str
    name: str
    queue: str
    created: bool
    _core: Core
    _convert: Callable[[Any], Any] | None = None

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<JobHandle {self.id} {self.name!r} on {self.queue!r}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    async def refresh(self) -> JobView:
        """The job as it is now. Raises JobNotFound."""
        view = await get_view(self._core, self.id)
        if view is None:
            raise JobNotFound(self.id)
        return view

    async def result(self, timeout: Duration | None = None) -> R_co:
        """What the handler returned, as soon as the job completed; None waits for ever.

        Raises JobDead with the last error, JobCancelled, JobNotFound, ResultTimeout (a TimeoutError); StoreError as
        `wait` does.
        """
        return self._ended(await self.wait(timeout))

    async def wait(self, timeout: Duration | None = None) -> JobView:
        """The job, as soon as it has ended: completed, dead or cancelled.

        Raises JobNotFound, ResultTimeout; StoreError when the store has been away for 10 s, or for the rest of the
        timeout.
        """
        timeout_ms = None if timeout is None else to_ms("timeout", timeout)
        clock = self._core.clock
        give_up_at = None if timeout_ms is None else clock.mono_ms() + timeout_ms
        while True:
            left_ms = None if give_up_at is None else give_up_at - clock.mono_ms()
            wait_ms = LOOK_AGAIN_MS if left_ms is None else max(0, min(LOOK_AGAIN_MS, int(left_ms) + 1))
            async with self._signal(wait_ms) as signal:
                view = await self._look(GIVE_UP_MS if left_ms is None else min(GIVE_UP_MS, left_ms))
                if view.status in _ENDS:
                    return view
                if left_ms is not None and left_ms <= 0:
                    raise ResultTimeout(self.id, view.status, timeout_ms or 0)
                await _outlast(self._core, signal)

    async def stream(self, every: Duration = 0.5) -> AsyncGenerator[JobView, None]:
        """The job as it is now, and again after each change of its status, attempt or progress, until it has ended.

        It is looked at this often, and at once when it ends; what changes twice between two looks is seen once. Raises
        JobNotFound, InvalidOption; StoreError when the store has been away for 10 s.
        """
        every_ms = to_ms("every", every, minimum_ms=1)
        seen: tuple[Any, ...] = ()
        while True:
            async with self._signal(every_ms) as signal:
                view = await self._look(GIVE_UP_MS)
                now = (view.status, view.generation, view.attempt, view.lost, view.progress, view.cancel_requested)
                if now != seen:
                    seen = now
                    yield view
                if view.status in _ENDS:
                    return
                await _outlast(self._core, signal)

    async def _look(self, patience_ms: float) -> JobView:
        """As `refresh`, over a restart of the store: whoever waits for a job has time for that."""
        clock = self._core.clock
        give_up_at = clock.mono_ms() + patience_ms
        while True:
            try:
                return await self.refresh()
            except (StoreUnavailable, StoreBusy):
                left_ms = give_up_at - clock.mono_ms()
                if left_ms <= 0:
                    raise
                await clock.sleep_ms(min(LOOK_AGAIN_MS, left_ms))

    @contextlib.asynccontextmanager
    async def _signal(self, wait_ms: int) -> AsyncIterator[asyncio.Task[bool]]:
        """The store's word that it may have ended.

        It counts from when the waiting began: first wait, then look, so that none is missed.
        """
        self._core.require_running()
        signal = spawn(self._core.backend.wait((), (self.id,), wait_ms), name="psyqueue-result", is_awaited=True)
        try:
            yield signal
        finally:
            signal.cancel()

    async def cancel(self) -> bool:
        """Cancel it, or ask its worker to if it runs. False: it had ended. Raises JobNotFound."""
        return await cancel_job(self._core, self.id)

    def _ended(self, view: JobView) -> R_co:
        if view.status == "dead":
            raise JobDead(self.id, view.reason, view.errors[-1] if view.errors else None)
        if view.status == "cancelled":
            raise JobCancelled(self.id, view.reason)
        convert = self._convert
        if convert is None and not self.name and (spec := self._core.handlers.find(view.name)) is not None:
            # A handle made of an id alone learns only here which handler it was.
            convert = spec.convert
        result: R_co = view.result if convert is None else convert(view.result)
        return result


async def _outlast(core: Core, signal: Awaitable[bool]) -> None:
    """A signal that cannot be waited for is only slower to notice: the job itself is looked at again."""
    try:
        await signal
    except StoreError:
        await core.clock.sleep_ms(LOOK_AGAIN_MS)


_ENDS = frozenset(("completed", "dead", "cancelled"))
