"""One call to the store for several callers: to each its own reply, or its own refusal."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

from psyqueue.backend import Enqueued, NewJob, Op
from psyqueue.errors import ConfigError, NamespaceFrozen, PsyQueueError, QueueFull, Refused, StoreError
from psyqueue.kernel.ops import Channel

Caller: TypeAlias = tuple[Sequence[NewJob], "asyncio.Future[Sequence[Enqueued]]"]
Send: TypeAlias = Callable[[Op, Sequence[NewJob]], Awaitable[Sequence[Enqueued]]]
Look: TypeAlias = Callable[[Sequence[str]], Awaitable[Sequence[object]]]


class SharedCalls:
    """`send` is the call; `look` finds jobs by their ids, None where there is none.

    The jobs of one caller stay one atomic step, and one caller's bad job is never another's error.
    """

    def __init__(self, send: Send, look: Look) -> None:
        self._send = send
        self._look = look

    async def make(self, channel: Channel, callers: Sequence[Caller]) -> None:
        """Until each of them has its answer. Nothing of theirs is raised here."""
        refusal = await self._try(channel, callers)
        if refusal is None:
            return
        if len(callers) == 1:
            fail(callers, refusal)
        elif isinstance(refusal, QueueFull):
            await self._share_room(channel, callers, refusal)
        else:
            await self._make_each(channel, callers)

    async def _make_each(self, channel: Channel, callers: Iterable[Caller]) -> None:
        for caller in callers:
            await self.make(channel, [caller])

    async def _try(self, channel: Channel, callers: Sequence[Caller]) -> Refused | ConfigError | None:
        """What was refused, which may be the fault of one of them; None: each has its answer."""
        callers = [caller for caller in callers if not caller[1].done()]
        if not callers:
            return None
        together = [job for jobs, _ in callers for job in jobs]
        try:
            replies = await channel.run(lambda op: self._send(op, together))
        except (Refused, ConfigError) as exc:
            if not isinstance(exc, NamespaceFrozen):
                return exc
            fail(callers, exc)
        except Exception as exc:  # noqa: BLE001 - it belongs to the callers, each of them gets it
            fail(callers, exc)
        else:
            start = 0
            for jobs, reply in callers:
                end = start + len(jobs)
                if not reply.done():
                    reply.set_result(replies[start:end])
                start = end
        return None

    # ── a queue that is full ──────────────────────────────────────────────────────────────────────────────────────────
    async def _share_room(self, channel: Channel, callers: Sequence[Caller], full: QueueFull) -> None:
        """What is left of it is for who came first; a crowd at a full queue is turned away by a dozen calls."""
        meant, others = _apart(callers, full)
        if not meant:
            await self._make_each(channel, callers)
            return
        await self.make(channel, others)
        shown = await self._fill(channel, meant, full)
        if shown is not None:
            hit, missed = _apart([caller for caller in meant if not caller[1].done()], shown)
            await self.make(channel, missed)
            await self._turn_away(channel, hit, shown)

    async def _fill(self, channel: Channel, callers: Sequence[Caller], full: QueueFull) -> QueueFull | None:
        """Halve those who were refused together until it is known who fits.

        As soon as one job alone was refused nothing fits any more: that refusal, and the others have no answer yet.
        """
        if len(callers) == 1:
            fail(callers, full)
            return full if len(callers[0][0]) == 1 else None
        middle = len(callers) // 2
        for half in (callers[:middle], callers[middle:]):
            refusal = await self._try(channel, half)
            if isinstance(refusal, QueueFull):
                shown = await self._fill(channel, half, refusal)
                if shown is not None:
                    return shown
            elif refusal is not None:
                await self._make_each(channel, half)
        return None

    async def _turn_away(self, channel: Channel, callers: Sequence[Caller], full: QueueFull) -> None:
        """There was no room for any new job. Who asks for one that may be there already needs none: these are tried."""
        new = [caller for caller in callers if not any(job.unique or job.idempotency for job in caller[0])]
        ids = [job.id for jobs, _ in new for job in jobs]
        try:
            found = await self._look(ids) if ids else ()
        except StoreError:
            new = []
        else:
            there = {job_id for job_id, view in zip(ids, found, strict=True) if view is not None}
            new = [caller for caller in new if there.isdisjoint(job.id for job in caller[0])]
        fail(new, full)
        await self._make_each(channel, callers)


def _apart(callers: Iterable[Caller], full: QueueFull) -> tuple[list[Caller], list[Caller]]:
    """Those with a job for the place that is full, and the others."""
    meant: list[Caller] = []
    others: list[Caller] = []
    for caller in callers:
        goes_there = any(job.queue == full.queue and full.lane in (None, job.lane) for job in caller[0])
        (meant if goes_there else others).append(caller)
    return meant, others


def fail(callers: Iterable[Caller], error: BaseException) -> None:
    """Each gets an error of its own: who catches it may add to it."""
    for number, (_, reply) in enumerate(callers):
        if reply.done():
            continue
        if isinstance(error, asyncio.CancelledError):
            reply.cancel()
        else:
            reply.set_exception(error if number == 0 else _copy(error))


def _copy(error: BaseException) -> BaseException:
    if not isinstance(error, PsyQueueError):
        return error  # a bug of somebody's, that nobody adds to; not all of them can be copied
    copied = copy.copy(error).with_traceback(error.__traceback__)
    copied.__cause__ = error.__cause__
    return copied
