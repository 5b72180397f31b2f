"""Concurrent enqueues of one process share store calls: while one is in flight the others gather for the next.

Where a store takes two calls at once, a crowd of callers is shared out over both: while one half waits for the store,
the process reads the replies of the other half and makes its next call (docs/adr/0022).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from psyqueue.backend import Enqueued, NewJob
from psyqueue.backend.bounds import CALL_BYTES_MAX, ITEMS_MAX
from psyqueue.errors import StoreError, StoreUnavailable
from psyqueue.kernel.aio import next_turn, spawn
from psyqueue.kernel.ops import Channel
from psyqueue.kernel.shared_calls import Caller, Look, Send, SharedCalls, fail

CROWD: Final = 25
"""Callers that are worth a call of their own beside one in flight; fewer wait for it, and go with whoever comes."""


def job_bytes(job: NewJob) -> int:
    """What a job counts towards the size of a call."""
    return len(job.payload) + len(job.cold)


class Coalescer:
    """`submit` from any number of callers.

    The jobs of one caller stay one atomic step, and one caller's bad job is never another's error. A lone caller makes
    its call itself, without a task in between. Whoever waited all the while behind a call that got no answer in time
    is told so with it, and was never sent: one call after the other would take that time again for each.
    """

    def __init__(self, channels: Iterable[Channel], send: Send, look: Look) -> None:
        """As many calls are in flight at once as there are channels. The others are those of SharedCalls."""
        self._free = list(channels)
        """Those without a call in flight."""
        self._calls_max = len(self._free)
        self._send = send
        self._calls = SharedCalls(send, look)
        self._waiting: deque[Caller] = deque()
        self._left = 0
        """How many have left the line so far."""
        self._flying = 0
        """Callers whose calls are in flight."""
        self._drained: asyncio.Future[None] | None = None

    async def submit(self, jobs: Sequence[NewJob]) -> Sequence[Enqueued]:
        """Replies in the order of `jobs` (≤ 500 and ≤ 8 MiB). Raises what the store said about these jobs.

        Cancelled while it waits for its turn: nothing was written. Cancelled later: it may have been.
        """
        reply = self.join(jobs)
        if reply is not None:
            return await reply
        channel = self._free.pop()
        self._flying += 1
        try:
            return await channel.run(lambda op: self._send(op, jobs))
        finally:
            self._flying -= 1
            self._free.append(channel)
            if self._waiting:
                self._serve_soon()
            else:
                self._rest()

    def join(self, jobs: Sequence[NewJob]) -> asyncio.Future[Sequence[Enqueued]] | None:
        """The replies of the next call, if one is in flight now; None: nobody to wait for, `submit` them."""
        if len(self._free) == self._calls_max:
            return None
        reply: asyncio.Future[Sequence[Enqueued]] = asyncio.get_running_loop().create_future()
        self._waiting.append((jobs, reply))
        if self._free and len(self._waiting) >= CROWD:
            self._serve_soon()
        return reply

    async def drain(self) -> None:
        """Until nobody waits any more. Nobody may submit meanwhile."""
        if len(self._free) < self._calls_max:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def _serve_soon(self) -> None:
        spawn(self._serve(self._free.pop()), name="psyqueue-enqueue")

    async def _serve(self, channel: Channel) -> None:
        callers: list[Caller] = []
        try:
            while self._waiting and (not self._flying or len(self._waiting) >= CROWD):
                callers = self._next_callers()
                self._flying += len(callers)
                last = self._left + len(self._waiting)
                try:
                    await self._calls.make(channel, callers)
                finally:
                    self._flying -= len(callers)
                if channel.given_up is not None:
                    self._give_up_behind(last, channel.given_up)
                # Those who were served may have come back by the next turn of the loop: then they go together.
                await next_turn()
        except BaseException as exc:
            fail([*callers, *self._waiting], exc if isinstance(exc, Exception) else asyncio.CancelledError())
            self._left += len(self._waiting)
            self._waiting.clear()
            raise
        finally:
            self._free.append(channel)
            self._rest()

    def _rest(self) -> None:
        if self._drained is not None and not self._drained.done() and len(self._free) == self._calls_max:
            self._drained.set_result(None)

    def _next_callers(self) -> list[Caller]:
        """As many as fit into one step, in order of arrival; of a crowd an even share for each call."""
        callers: list[Caller] = []
        items = size = 0
        share = max(CROWD, -(-(self._flying + len(self._waiting)) // self._calls_max))
        while self._waiting and len(callers) < share:
            jobs, reply = self._waiting[0]
            if reply.done():  # cancelled before its turn: never sent
                self._leave()
                continue
            items += len(jobs)
            for job in jobs:
                size += job_bytes(job)
            if callers and (items > ITEMS_MAX or size > CALL_BYTES_MAX):
                break
            callers.append(self._leave())
        return callers

    def _leave(self) -> Caller:
        self._left += 1
        return self._waiting.popleft()

    def _give_up_behind(self, last: int, error: StoreError) -> None:
        """`last`: the number of the last one in the line when the call was sent."""
        behind = [self._leave() for _ in range(last - self._left)]
        fail(behind, _never_sent(error))


def _never_sent(error: StoreError) -> StoreError:
    """For who waited behind the call that ended with `error`."""
    if not isinstance(error, StoreUnavailable):
        return error  # it says that nothing was written
    text = f"the call in front got no answer for so long that this one was not sent ({error.message})"
    return StoreUnavailable(text, outcome="refused")
