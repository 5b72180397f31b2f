"""Concurrent enqueues of one process share store calls: while one is in flight the others gather for the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from typing import TypeAlias

from psyqueue.backend import Enqueued, NewJob, Op
from psyqueue.backend.bounds import CALL_BYTES_MAX, ITEMS_MAX
from psyqueue.errors import ConfigError, NamespaceFrozen, Refused
from psyqueue.kernel.aio import spawn
from psyqueue.kernel.ops import Channel

_Caller: TypeAlias = tuple[Sequence[NewJob], "asyncio.Future[Sequence[Enqueued]]"]
Send: TypeAlias = Callable[[Op, Sequence[NewJob]], Awaitable[Sequence[Enqueued]]]


def job_bytes(job: NewJob) -> int:
    """What a job counts towards the size of a call."""
    return len(job.payload) + len(job.cold)


class Coalescer:
    """`submit` from any number of callers.

    The jobs of one caller stay one atomic step, and one caller's bad job is never another's error. A lone caller makes
    its call itself, without a task in between.
    """

    def __init__(self, channel: Channel, send: Send) -> None:
        self._channel = channel
        self._send = send
        self._waiting: deque[_Caller] = deque()
        self._is_busy = False
        self._drained: asyncio.Future[None] | None = None

    async def submit(self, jobs: Sequence[NewJob]) -> Sequence[Enqueued]:
        """Replies in the order of `jobs` (≤ 500 and ≤ 8 MiB). Raises what the store said about these jobs.

        Cancelled while it waits for its turn: nothing was written. Cancelled later: it may have been.
        """
        reply = self.join(jobs)
        if reply is not None:
            return await reply
        self._is_busy = True
        try:
            return await self._channel.run(lambda op: self._send(op, jobs))
        finally:
            if self._waiting:
                spawn(self._serve(), name="psyqueue-enqueue")
            else:
                self._rest()

    def join(self, jobs: Sequence[NewJob]) -> asyncio.Future[Sequence[Enqueued]] | None:
        """The replies of the next call, if one is in flight now; None: nobody to wait for, `submit` them."""
        if not self._is_busy:
            return None
        reply: asyncio.Future[Sequence[Enqueued]] = asyncio.get_running_loop().create_future()
        self._waiting.append((jobs, reply))
        return reply

    async def drain(self) -> None:
        """Until nobody waits any more. Nobody may submit meanwhile."""
        if self._is_busy:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    async def _serve(self) -> None:
        try:
            while self._waiting:
                await self._send_together(self._next_callers())
                # Those who were served may have come back by the next turn of the loop: then they go together.
                await _NextTurn()
        except BaseException as exc:
            _fail(self._waiting, exc if isinstance(exc, Exception) else asyncio.CancelledError())
            self._waiting.clear()
            raise
        finally:
            self._rest()

    def _rest(self) -> None:
        self._is_busy = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _next_callers(self) -> list[_Caller]:
        """As many as fit into one step, in order of arrival."""
        callers: list[_Caller] = []
        items = size = 0
        while self._waiting:
            jobs, reply = self._waiting[0]
            if reply.done():  # cancelled before its turn: never sent
                self._waiting.popleft()
                continue
            items += len(jobs)
            for job in jobs:
                size += job_bytes(job)
            if callers and (items > ITEMS_MAX or size > CALL_BYTES_MAX):
                break
            callers.append(self._waiting.popleft())
        return callers

    async def _send_together(self, callers: list[_Caller]) -> None:
        if not callers:
            return
        together = [job for jobs, _ in callers for job in jobs]
        try:
            replies = await self._channel.run(lambda op: self._send(op, together))
        except (Refused, ConfigError) as exc:
            if len(callers) == 1 or isinstance(exc, NamespaceFrozen):
                _fail(callers, exc)
                return
            for caller in callers:
                await self._send_together([] if caller[1].done() else [caller])
        except Exception as exc:  # noqa: BLE001 - it belongs to the callers, each of them gets it
            _fail(callers, exc)
        except BaseException:
            _fail(callers, asyncio.CancelledError())
            raise
        else:
            start = 0
            for jobs, reply in callers:
                end = start + len(jobs)
                if not reply.done():
                    reply.set_result(replies[start:end])
                start = end


def _fail(callers: Iterable[_Caller], error: BaseException) -> None:
    for _, reply in callers:
        if reply.done():
            continue
        if isinstance(error, asyncio.CancelledError):
            reply.cancel()
        else:
            reply.set_exception(error)


class _NextTurn:
    """Awaiting it lets everything that is ready run once."""

    def __await__(self) -> Generator[None, None, None]:
        yield
