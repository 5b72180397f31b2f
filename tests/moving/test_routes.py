"""What a process remembers of a move never goes back to what was seen before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from moving.rig import live
from psyqueue.backend import BackendAdapter, Info
from psyqueue.moving.routes import Routes


class Slow:
    """A store one of whose answers to `info` is long on its way."""

    def __init__(self, inner: BackendAdapter) -> None:
        self._inner = inner
        self._left = 0
        self.on_its_way = asyncio.Event()
        self.arrives = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def delay(self, number: int) -> None:
        self._left = number

    async def info(self) -> Info:
        info = await self._inner.info()
        self._left -= 1
        if self._left == 0:
            self.on_its_way.set()
            await self.arrives.wait()
        return info


@pytest.mark.parametrize(("number", "looks"), [(1, 1), (2, 2)], ids=["torn", "overtaken"])
async def test_who_looks_while_the_move_ends_sees_its_end(stores, number, looks):
    """A worker that was stopped in the midst of a look settled in the old store again what the new one had given."""
    old, new = stores
    await live(old, new).begin()
    await old.backend.set_mode(old.op(), "frozen", (await old.backend.info()).epoch + 1, "new")
    slow: Any = Slow(old.backend)
    routes = Routes(slow, new.backend)
    await routes.connect()
    slow.delay(number)
    looking = [asyncio.create_task(routes.learn())]
    await slow.on_its_way.wait()
    await live(old, new).finish()
    looking += [asyncio.create_task(routes.learn()) for _ in range(looks - 1)]
    for _ in range(50):
        await asyncio.sleep(0)  # as far as they get
    slow.arrives.set()
    await asyncio.gather(*looking)
    assert (routes.is_switched, routes.is_drained, routes.is_done) == (True, True, True)
