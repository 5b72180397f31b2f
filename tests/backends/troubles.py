"""What the tests of servers in trouble share: runs that last until they are told, and an enqueue that is patient."""

from __future__ import annotations

import asyncio
from collections import Counter

from psyqueue import JobHandle
from psyqueue.errors import StoreUnavailable, StoreUnusable
from worker.rig import Rig, a_moment

LEASE_MS = 60_000


class Held:
    """A handler whose runs last until `go`."""

    def __init__(self, rig: Rig) -> None:
        self.go = asyncio.Event()
        self.starts: Counter[int] = Counter()

        @rig.q.handle("held", queue="q", max_retries=0)
        async def handler(n: int) -> int:
            self.starts[n] += 1
            await self.go.wait()
            return n

        self.handler = handler


async def enqueued_at_last(held: Held, n: int) -> tuple[JobHandle[int], list[StoreUnavailable | StoreUnusable]]:
    """Whatever is refused meanwhile is tried again; (job, the errors)"""
    told: list[StoreUnavailable | StoreUnusable] = []
    async with asyncio.timeout(30):
        while True:
            try:
                return await held.handler.options(id=f"last-{n}").enqueue(n), told
            except (StoreUnavailable, StoreUnusable) as error:
                told.append(error)
                await a_moment()
