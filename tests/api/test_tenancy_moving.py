"""Tenants of an application that goes on while its jobs move to another store."""

from __future__ import annotations

from pathlib import Path

import pytest

from psyqueue import PsyQueue, RateLimitError
from psyqueue.backends import sqlite
from psyqueue.moving import House, LiveMove, moving
from psyqueue.plugins import Tenancy, Tier

TIERS = {"free": Tier(active_max=2, enqueues_per_minute=3), "pro": Tier(active_max=5)}


class Application:
    """A process of it: a queue of its own over both stores."""

    def __init__(self, folder: Path) -> None:
        self.tenancy = Tenancy(TIERS, default="free")
        stores = (sqlite(folder / f"{name}.db", durability="normal", test_clock=True) for name in ("old", "new"))
        self.q = PsyQueue().use(moving(*stores)).use(self.tenancy)
        self.q.handle("work", self._work)

    async def _work(self) -> None: ...

    async def enqueue(self, tenant: str, queue: str) -> None:
        await self.q.enqueue("work", queue=queue, tenant=tenant)

    async def active_max(self, tenant: str, queue: str) -> int | None:
        return (await self.q.limits(queue, tenant)).active_max


async def test_tiers_hold_before_during_and_after_a_move_without_a_pause(tmp_path):
    one, two = Application(tmp_path), Application(tmp_path)
    old, new = (
        sqlite(tmp_path / f"{name}.db", durability="normal", test_clock=True).adapter for name in ("old", "new")
    )
    async with one.q, two.q:
        await one.enqueue("acme", "before")
        await old.connect()
        await new.connect()
        move = LiveMove(House(old, "old.db"), House(new, "new.db"))
        await move.begin()
        await two.enqueue("acme", "during")
        await one.tenancy.assign("bob", "pro")
        await two.enqueue("bob", "during")
        assert [await two.active_max("acme", queue) for queue in ("before", "during")] == [2, 2]
        assert await one.active_max("bob", "during") == 5
        while await one.q.process_next("before"):
            pass
        await move.finish()
        assert (await move.status()).step == "over"
        assert [await two.active_max("acme", queue) for queue in ("before", "during")] == [2, 2]
        await two.enqueue("acme", "after")
        with pytest.raises(RateLimitError):
            await one.enqueue("acme", "after")
        await two.tenancy.assign("acme", "pro")
        assert [await one.active_max("acme", queue) for queue in ("before", "during", "after")] == [5, 5, 5]
        assert [(view.id, view.tier) for view in (await one.tenancy.list()).items] == [("acme", "pro"), ("bob", "pro")]
        await old.disconnect()
        await new.disconnect()
