"""A process that dies while it tries a half-open circuit does not keep it half-open."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crash.circuit_probers import CIRCUIT
from crash.nursery import Child, Nursery
from psyqueue import PsyQueue
from psyqueue.plugins import CircuitBreaker, CircuitOpen
from support.store_at import place_on, store_at
from support.waiting import wait_until

if TYPE_CHECKING:
    from conftest import OwnServers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

DEATHS = 3


class Watcher:
    """Another process, which lives."""

    def __init__(self, place: str) -> None:
        self.breaker = CircuitBreaker(CIRCUIT, reset="1m")
        self.q = PsyQueue().use(store_at(place, test_clock=True)).use(self.breaker)

    async def advance(self, by_ms: int) -> None:
        await self.q.get_exposed("backend").advance_clock(by_ms)

    async def get_through(self) -> bool:
        assert self.breaker._turnstile is not None
        self.breaker._turnstile.look_soon()
        try:
            async with self.breaker.call():
                return True
        except CircuitOpen:
            return False


def kill(prober: Child) -> None:
    prober.kill()
    prober.wait()


async def outlive(place: str, nursery: Nursery, words: Path) -> None:
    watcher = Watcher(place)
    async with watcher.q:
        await watcher.breaker.open()
        await watcher.advance(60_000)
        for _ in range(DEATHS):
            prober = await asyncio.to_thread(nursery.bear, [place], words)
            is_trying = await asyncio.to_thread(wait_until, lambda: watcher.breaker.sync.state().state == "half-open")
            assert is_trying, await asyncio.to_thread(words.read_text)
            assert not await watcher.get_through()
            await asyncio.to_thread(kill, prober)
            await watcher.advance(29_000)
            assert not await watcher.get_through()
            await watcher.advance(1_000)
            assert await watcher.get_through()
            assert (await watcher.breaker.state()).state == "closed"
            await watcher.breaker.open()
            await watcher.advance(60_000)


@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgres"])
def test_one_that_dies_while_it_tries_leaves_its_place_to_the_next(kind: str, tmp_path: Path, own_servers: OwnServers):
    server = None if kind == "sqlite" else getattr(own_servers, kind)(durable=True)
    place = str(tmp_path / "jobs.db") if server is None else place_on(server.url, "circuits")
    with Nursery("crash.circuit_probers") as nursery:
        asyncio.run(outlive(place, nursery, tmp_path / "words.log"))
