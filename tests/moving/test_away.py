"""One of the two servers is away in each phase of a move: what fails says so, and nothing of it is lost."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import pytest

from moving.rig import EVERYTHING, Killed, Life, application, live
from psyqueue.errors import StoreUnavailable
from psyqueue.testing.conformance import Store
from support.redis_store import redis_factory
from support.servers import Server
from support.sqlite_store import sqlite_factory

if TYPE_CHECKING:
    from conftest import OwnServers

pytestmark = pytest.mark.slow

NEEDS = {
    ("new", "before"): (True, True, False),
    ("new", "draining"): (False, True, False),
    ("new", "finishing"): (False, False, False),
    ("new", "over"): (False, False, False),
    ("old", "before"): (False, False, False),
    ("old", "draining"): (False, False, False),
    ("old", "finishing"): (False, False, False),
    ("old", "over"): (True, True, False),
}
"""Which store is away, and in which phase: whether one can enqueue, dequeue, and go on with the move."""


async def goes(call: Awaitable[Any]) -> bool:
    """Whether it could be done; else it is told that a store is not there."""
    try:
        await call
    except StoreUnavailable:
        return False
    return True


class Scene:
    """An application and its move, between a file and a server that goes away."""

    def __init__(self, old: Store, new: Store, app: Store, server: Server) -> None:
        self.old, self.new, self.app, self.server = old, new, app, server
        self.made: list[str] = []
        self.ran: list[str] = []

    async def enqueue(self, name: str) -> bool:
        """The same job again if nobody knows what became of it."""
        if await goes(self.app.add(name)):
            self.made.append(name)
            return True
        return False

    async def work(self, count: int) -> bool:
        async def run() -> None:
            for delivery in await self.app.dequeue(count=count):
                self.ran.append(delivery.id)
                await self.app.ack(delivery)

        return await goes(run())

    async def without_it(self, phase: str) -> tuple[bool, bool, bool]:
        self.server.kill()
        try:
            found = (await self.enqueue(f"away-{phase}"), await self.work(1), await goes(self.move().status()))
        finally:
            self.server.restart()
        await self.enqueue(f"away-{phase}")
        await self.enqueue(f"back-{phase}")
        return found

    def move(self, life: Life | None = None) -> Any:
        return live(self.old, self.new, life, EVERYTHING)


@pytest.mark.parametrize("away", ["old", "new"])
async def test_a_server_that_is_away_in_any_phase_costs_errors_and_no_job(away, tmp_path, own_servers: OwnServers):
    server = own_servers.redis(durable=True)
    on_server, in_file = await redis_factory(server.url, "moves").fresh(), await sqlite_factory(tmp_path).fresh()
    old, new = Store(on_server), Store(in_file, client="new")
    if away == "new":
        old, new = Store(in_file), Store(on_server, client="new")
    scene = Scene(old, new, await application(old, new), server)
    await scene.enqueue("first")
    await scene.app.open_session()
    assert await scene.without_it("before") == NEEDS[away, "before"]
    await scene.move().begin()
    assert await scene.without_it("draining") == NEEDS[away, "draining"]
    with pytest.raises(Killed):
        await scene.move(Life(3, is_late=True)).finish()
    assert await scene.without_it("finishing") == NEEDS[away, "finishing"]
    await scene.move().finish()
    await scene.work(1)
    assert await scene.without_it("over") == NEEDS[away, "over"]
    await scene.work(20)
    assert sorted(scene.ran) == sorted(set(scene.made)), "each once"
    assert len(scene.ran) == 9
    for store in (old, new):
        assert await store.broken() == []
        await store.backend.disconnect()
