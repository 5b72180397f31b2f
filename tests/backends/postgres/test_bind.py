"""Jobs inside a transaction of the caller's own, on an asyncpg connection."""

from __future__ import annotations

import asyncpg
import pytest

from backends.postgres.stores import connected, opened
from psyqueue.errors import IdConflict, InvalidOption, InvalidState
from psyqueue.testing.conformance.handle import job
from support.servers import Server


async def test_jobs_come_and_go_with_the_callers_own_rows(postgres_server: Server, namespace: str) -> None:
    async with opened(postgres_server.url, namespace) as store, connected(postgres_server.url) as connection:
        await connection.execute(f'create table "{namespace}".orders (id int)')
        for number, ending in ((1, "rollback"), (2, "commit")):
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(f'insert into "{namespace}".orders values ($1)', number)
            await store.backend.bind(connection).enqueue((job(f"order-{number}"),))
            await getattr(transaction, ending)()
        assert await store.statuses("order-1", "order-2") == [None, "pending"]
        assert await connection.fetchval(f'select array_agg(id) from "{namespace}".orders') == [2]


async def test_a_refused_call_leaves_the_callers_transaction_as_it_was(postgres_server: Server, namespace: str) -> None:
    async with opened(postgres_server.url, namespace) as store, connected(postgres_server.url) as connection:
        await store.add("a", digest=b"one")
        async with connection.transaction():
            bound = store.backend.bind(connection)
            await bound.enqueue((job("b"),))
            with pytest.raises(IdConflict):
                await bound.enqueue((job("a", digest=b"two"), job("c")))
        assert await store.statuses("b", "c") == ["pending", None]


async def test_a_connection_of_the_callers_pool_will_do(postgres_server: Server, namespace: str) -> None:
    async with opened(postgres_server.url, namespace) as store, asyncpg.create_pool(postgres_server.url) as pool:
        async with pool.acquire() as connection, connection.transaction():
            await store.backend.bind(connection).enqueue((job("a"),))
        assert await store.status("a") == "pending"


async def test_without_a_transaction_nothing_is_done(postgres_server: Server, namespace: str) -> None:
    async with opened(postgres_server.url, namespace) as store, connected(postgres_server.url) as connection:
        with pytest.raises(InvalidState, match="begin one"):
            await store.backend.bind(connection).enqueue((job("a"),))


async def test_a_transaction_that_failed_before_says_so(postgres_server: Server, namespace: str) -> None:
    async with opened(postgres_server.url, namespace) as store, connected(postgres_server.url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute("nonsense")
        with pytest.raises(InvalidState, match="roll it back"):
            await store.backend.bind(connection).enqueue((job("a"),))
        await transaction.rollback()


async def test_another_database_than_the_stores_is_refused(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as owner:
        await owner.execute(f'create database "{namespace}"')
        foreign = url.rpartition("/")[0] + f"/{namespace}"
        try:
            async with connected(foreign) as connection, connection.transaction():
                with pytest.raises(InvalidOption, match="not open on the database"):
                    await store.backend.bind(connection).enqueue((job("a"),))
            async with opened(foreign, namespace), connected(foreign) as connection, connection.transaction():
                with pytest.raises(InvalidOption, match="not open on the database"):
                    await store.backend.bind(connection).enqueue((job("a"),))
        finally:
            await owner.execute(f'drop database "{namespace}" with (force)')
