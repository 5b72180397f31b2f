"""One side of a move: a store, what people call it, and calls that are repeated until their outcome is known."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from secrets import SystemRandom
from typing import TypeVar

from psyqueue.backend import BackendAdapter, Info, Mode, Moved, MovedState, Op, Part, QueueInfo, SessionInfo
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.backend.compose import all_queues, all_sessions
from psyqueue.clock import Clock, SystemClock
from psyqueue.ids import new_token
from psyqueue.kernel.ops import Channel

T = TypeVar("T")
Page = TypeVar("Page", bound=Sequence[Moved])
JOURNAL = "psyqueue.move"
"""The state key under which a move keeps, in its destination, how far it is. It never moves itself."""
MARK = "psyqueue.moved"
"""The state key by which a store remembers a move into it without a pause that came to its end."""


class House:
    """`address` goes into errors of old clients: it must not hold a password."""

    def __init__(self, backend: BackendAdapter, address: str, *, clock: Clock | None = None) -> None:
        self.backend = backend
        self.address = address
        self.clock: Clock = clock or SystemClock()
        self._channel = Channel(new_token(), 0, clock=self.clock, chance=SystemRandom().random)

    async def change(self, call: Callable[[Op], Awaitable[T]]) -> T:
        """A mutating verb, repeated under the same op until its outcome is known."""
        return await self._channel.run(call)

    async def switch(self, mode: Mode, moved_to: str = "") -> Info:
        epoch = (await self.backend.info()).epoch
        return await self.change(lambda op: self.backend.set_mode(op, mode, epoch + 1, moved_to))

    async def pages(self, part: Part) -> AsyncIterator[tuple[Moved, ...]]:
        """Every page of a part; without the journal of a move."""
        cursor: str | None = None
        while True:
            page = await self.backend.export_part(part, cursor, ITEMS_MAX)
            yield tuple(item for item in page.items if not is_journal(item)) if part == "state" else page.items
            cursor = page.cursor
            if cursor is None:
                return

    async def take_in(self, items: Sequence[Moved]) -> int:
        return await self.change(lambda op: self.backend.import_part(op, items)) if items else 0

    async def drop(self, items: Sequence[Moved]) -> int:
        return await self.change(lambda op: self.backend.drop_part(op, items)) if items else 0

    async def queues(self) -> list[QueueInfo]:
        return await all_queues(self.backend)

    async def counts(self) -> Counter[tuple[str, str]]:
        """Jobs by queue and status; none that is 0."""
        return Counter(
            {(info.queue, status): n for info in await self.queues() for status, n in info.counts.items() if n}
        )

    async def sessions(self) -> list[SessionInfo]:
        return await all_sessions(self.backend)


async def each(pages: AsyncIterator[Page], work: Callable[[Page], Awaitable[object]]) -> None:
    """`work` on one after the other; as soon as it waits for something, the next one is asked for."""
    page = await anext(pages, None)
    while page is not None:
        _, page = await asyncio.gather(work(page), anext(pages, None))


def is_journal(item: Moved) -> bool:
    return isinstance(item, MovedState) and item.item.key in (JOURNAL, MARK)
