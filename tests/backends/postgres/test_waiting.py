"""Waiting for notices: those for others are none of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from backends.postgres.stores import LIMIT_S, opened
from psyqueue.testing.conformance.handle import Store
from psyqueue.testing.conformance.waking import Waiter, woken
from support.servers import Server

WAIT_MS = 300


@asynccontextmanager
async def two_of_which_one_listens(url: str, schema: str) -> AsyncIterator[tuple[Store, Store]]:
    """It goes on sleeping elsewhere."""
    async with opened(url, schema) as store, opened(url, schema, "other") as other:
        assert await woken(Waiter(other, ("elsewhere",)), lambda: store.add("x", "elsewhere"))
        assert await store.dequeue_ids("elsewhere") == ["x"]
        asleep = asyncio.create_task(other.backend.wait(("elsewhere", "nowhere"), (), 60_000))
        yield store, other
        asleep.cancel()


async def test_news_of_queues_where_only_others_sleep_is_not_kept(postgres_server: Server, namespace: str) -> None:
    """A process would remember each name of a queue for ever, and its first wait there would be in vain."""
    async with two_of_which_one_listens(postgres_server.url, namespace) as (store, other):
        assert not await store.backend.wait(("q",), (), WAIT_MS)  # it is known to sleep there from here on
        assert await woken(Waiter(store, ("q",)), lambda: store.add("a"))
        assert await store.dequeue_ids() == ["a"]
        # A message behind it: what was sent before has come.
        messages: Any = other.backend.subscribe(("t",))
        heard = asyncio.ensure_future(anext(messages))
        while not heard.done():
            await store.backend.publish("t", (b"1",))
            await asyncio.wait({heard}, timeout=0.05)
        await messages.aclose()
        assert not await other.backend.wait(("q",), (), WAIT_MS)


async def test_news_between_two_waits_is_kept(postgres_server: Server, namespace: str) -> None:
    async with two_of_which_one_listens(postgres_server.url, namespace) as (store, other), asyncio.timeout(LIMIT_S):
        assert await woken(Waiter(other, ("q",)), lambda: store.add("a"))
        backend: Any = other.backend
        number = 0
        while not backend._client.listening._missed:
            number += 1
            await store.add(f"b{number}")
        await store.dequeue_ids()
        assert await other.backend.wait(("q",), (), 60_000)
