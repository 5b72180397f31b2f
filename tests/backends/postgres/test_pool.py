"""Connections are shared in turn, none is lost, and who gets none in time is told. A lease does not depend on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from backends.postgres.stores import LIMIT_S, connected, opened
from psyqueue.backends._postgres import PostgresBackend, PostgresOptions
from psyqueue.backends._postgres.pool import Pool
from psyqueue.errors import StoreBusy, StoreUnavailable
from psyqueue.testing.conformance.handle import LEASE_MS
from support.servers import Server

PLACE = "PostgreSQL here"
_SESSIONS = "select count(*) from pg_stat_activity where usename = $1"


@asynccontextmanager
async def pool_of(url: str, size: int, wait_s: float = LIMIT_S) -> AsyncIterator[Pool]:
    pool = Pool(lambda: asyncpg.connect(url), size, wait_s, PLACE)
    try:
        yield pool
    finally:
        async with asyncio.timeout(LIMIT_S):
            await pool.close()


async def test_who_waits_for_too_long_is_told_and_costs_nothing(postgres_server: Server) -> None:
    async with pool_of(postgres_server.url, 1, wait_s=0.05) as pool:
        connection = await pool.acquire()
        with pytest.raises(StoreBusy, match=r"all 1 connections were in use for 0\.05 s; nothing was sent"):
            await pool.acquire()
        await pool.release(connection)
        assert await pool.acquire() is connection
        await pool.release(connection)


async def test_who_comes_first_is_served_first(postgres_server: Server) -> None:
    """One who gives back and asks again at once does not get in before those who wait."""
    served: list[str] = []
    async with pool_of(postgres_server.url, 1) as pool:

        async def ask(name: str) -> None:
            connection = await pool.acquire()
            served.append(name)
            await pool.release(connection)

        connection = await pool.acquire()
        async with asyncio.TaskGroup() as group:
            group.create_task(ask("a"))
            group.create_task(ask("b"))
            await asyncio.sleep(0)
            await pool.release(connection)
            await ask("again")
        assert served == ["a", "b", "again"]


@pytest.mark.parametrize("moment", ["waiting", "served"])
async def test_a_place_of_one_who_was_cancelled_goes_to_the_next(postgres_server: Server, moment: str) -> None:
    async with pool_of(postgres_server.url, 1) as pool:
        connection = await pool.acquire()
        first, second = (asyncio.ensure_future(pool.acquire()) for _ in range(2))
        await asyncio.sleep(0)
        if moment == "served":
            await pool.release(connection)
            first.cancel()
        else:
            first.cancel()
            await pool.release(connection)
        assert await asyncio.wait_for(second, LIMIT_S) is connection
        await pool.release(connection)
        assert first.cancelled()


async def test_connections_that_died_or_were_never_made_are_made_anew(postgres_server: Server) -> None:
    failing = [True]

    async def connect() -> Any:
        if failing[0]:
            raise StoreUnavailable("away", outcome="refused")
        return await asyncpg.connect(postgres_server.url)

    pool = Pool(connect, 2, LIMIT_S, PLACE)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await pool.acquire()
    failing[0] = False
    for _ in range(3):
        pair = [await pool.acquire(), await pool.acquire()]
        waiting = asyncio.ensure_future(pool.acquire())
        await asyncio.sleep(0)
        pair[0].terminate()
        await pool.release(pair[0])
        third = await asyncio.wait_for(waiting, LIMIT_S)
        assert third not in pair
        for connection in (pair[1], third):
            connection.terminate()
            await pool.release(connection)
    await pool.close()


async def test_closing_waits_for_those_who_wait(postgres_server: Server) -> None:
    async with pool_of(postgres_server.url, 1) as pool:
        connection = await pool.acquire()
        waiting = asyncio.ensure_future(pool.acquire())
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(pool.close())
        await asyncio.sleep(0)
        await pool.release(connection)
        assert await asyncio.wait_for(waiting, LIMIT_S) is connection
        assert not closing.done()
        await pool.release(connection)
        await asyncio.wait_for(closing, LIMIT_S)
        assert connection.is_closed()


async def test_a_full_pool_does_not_lose_a_lease(postgres_server: Server, namespace: str) -> None:
    """All connections for calls are lent; renewals go over one of their own."""
    url = postgres_server.url
    async with opened(url, namespace, max_size=2) as store, opened(url, namespace, "other") as other:
        await store.open_session()
        await store.add("a")
        delivery = await store.dequeue_one()
        keeper = store.backend.keeper()
        lender: Any = getattr(store.backend, "_client")._lender  # noqa: B009 - the seam does not show it
        try:
            async with AsyncExitStack() as stack:
                for _ in range(2):
                    stack.push_async_callback(lender.release, await lender.acquire())
                for _ in range(4):
                    await other.backend.advance_clock(LEASE_MS // 2)
                    renewal = await asyncio.wait_for(asyncio.to_thread(keeper.renew, "s"), LIMIT_S)
                    assert renewal.open
                    await other.backend.reap(100)
            assert (await store.ack(delivery)).verdict == "ok"
        finally:
            await asyncio.to_thread(keeper.close)


@asynccontextmanager
async def limited(url: str, role: str, most: int, admin: asyncpg.Connection) -> AsyncIterator[str]:
    """The URL of a role that may have so many connections, and may use the schema of its name."""
    await admin.execute(f"""
        create role "{role}" login connection limit {most};
        grant usage on schema "{role}" to "{role}";
        grant select, insert, update, delete on all tables in schema "{role}" to "{role}";
        grant usage, select on all sequences in schema "{role}" to "{role}"
    """)
    try:
        yield url.replace("postgres@", f"{role}@")
    finally:
        await admin.execute(f'drop owned by "{role}"; drop role "{role}"')


async def test_a_lease_has_its_connection_before_the_server_is_full(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with (
        opened(url, namespace),
        connected(url) as admin,
        limited(url, namespace, 2, admin) as low,
        opened(low, namespace, "low", max_size=1) as store,
    ):
        await store.open_session()
        keeper = store.backend.keeper()
        try:
            async with asyncio.timeout(LIMIT_S):
                while await admin.fetchval(_SESSIONS, namespace) < 2:
                    await asyncio.sleep(0)
            with pytest.raises(asyncpg.TooManyConnectionsError):
                await asyncpg.connect(low)
            assert (await asyncio.to_thread(keeper.renew, "s")).open
        finally:
            await asyncio.to_thread(keeper.close)


async def test_a_full_pool_of_the_callers_own_is_told(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with (
        opened(url, namespace),  # making the store may take longer
        asyncpg.create_pool(url, min_size=0, max_size=1) as pool,
        opened(url, namespace, pool=pool, statement_timeout="1s") as store,
    ):
        async with pool.acquire():
            with pytest.raises(StoreBusy, match="all 1 connections"):
                await store.add("a")
        assert (await store.add("a")).created


async def test_a_pool_of_the_callers_own_that_is_closed_is_told(postgres_server: Server, namespace: str) -> None:
    pool = await asyncpg.create_pool(postgres_server.url, min_size=0, max_size=1)
    options = PostgresOptions(connection_string=postgres_server.url, schema=namespace, pool=pool)
    backend = PostgresBackend(options)
    await backend.connect()
    await pool.close()
    with pytest.raises(StoreUnavailable, match="pool is clos"):
        await backend.info()
    await backend.disconnect()


async def test_where_nobody_can_listen_the_store_is_looked_at(postgres_server: Server, namespace: str) -> None:
    """All connections of the role are in use by the pool: none is left for notices."""
    url = postgres_server.url
    async with (
        opened(url, namespace) as owner,
        connected(url) as admin,
        limited(url, namespace, 1, admin) as low,
        opened(low, namespace, "low", max_size=1) as store,
    ):
        for _ in range(3):  # whoever waits while it fails for the first time is woken
            await store.backend.wait(("q",), (), 100)
        waiting = asyncio.ensure_future(store.backend.wait(("q",), (), 60_000))
        await asyncio.sleep(0)
        await owner.add("a")
        assert await asyncio.wait_for(waiting, LIMIT_S)
        assert await admin.fetchval(f'select count(*) from "{namespace}".sleeper') == 0
