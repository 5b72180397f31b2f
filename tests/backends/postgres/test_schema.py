"""What lies in the database: functions that compile, a ledger that is kept to, rights that are enough."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from backends.postgres.stores import beside, connected, opened
from psyqueue.backend import Unique
from psyqueue.backends._postgres import PostgresBackend, PostgresOptions, facts, schema
from psyqueue.errors import InvalidOption, StoreUnavailable, StoreUnusable
from psyqueue.testing.conformance.handle import job
from support.servers import Server


async def test_every_function_compiles(postgres_server: Server, namespace: str) -> None:
    """They are made unchecked, since the order of their files is not that of their calls."""
    made = schema.filled(schema.this_release().functions.text, namespace).replace(
        "CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"
    )
    async with (
        opened(postgres_server.url, namespace),
        connected(postgres_server.url) as connection,
        connection.transaction(),
    ):
        await connection.execute(f'set local search_path = "{namespace}", pg_temp')
        await connection.execute(made)


async def test_connecting_again_writes_nothing(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace), connected(url) as connection:
        tables = "select xmin::text from {schema}.migration union all select xmin::text from {schema}.function_set"
        before = await connection.fetch(tables.format(schema=f'"{namespace}"'))
        async with opened(url, namespace):
            assert await connection.fetch(tables.format(schema=f'"{namespace}"')) == before


async def test_an_edited_migration_is_noticed(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace), connected(url) as connection:
        await connection.execute(f"""update "{namespace}".migration set checksum = 'x'""")
        with pytest.raises(StoreUnusable, match="another build"):
            async with opened(url, namespace):
                pass


async def test_a_store_of_tests_is_none_for_work(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace):
        with pytest.raises(StoreUnusable, match="test_clock"):
            async with opened(url, namespace, test_clock=False):
                pass


async def test_a_server_that_is_too_old_is_told_so(postgres_server: Server, namespace: str, monkeypatch) -> None:
    """As if the one that is here were older than what is asked for."""
    monkeypatch.setattr(facts, "VERSION_MIN", 990_000)
    with pytest.raises(StoreUnusable, match=rf"PostgreSQL {postgres_server.version}.* needs 13 or newer"):
        async with opened(postgres_server.url, namespace):
            pass


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("postgresql://postgres@127.0.0.1:1/x", StoreUnavailable, "nobody listens"),
        ("{server}_nowhere", StoreUnusable, "no such database"),
    ],
)
async def test_what_is_wrong_with_an_address_is_said(
    postgres_server: Server, url: str, error: type[Exception], words: str
) -> None:
    options = PostgresOptions(connection_string=url.replace("{server}", postgres_server.url))
    with pytest.raises(error, match=words):
        await PostgresBackend(options).connect()


async def test_a_proxy_whose_server_is_away_is_told_as_that() -> None:
    """It takes the connection and drops it; the driver's own words are "unexpected connection_lost() call"."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        options = PostgresOptions(connection_string=f"postgresql://postgres@127.0.0.1:{port}/x")
        with pytest.raises(StoreUnavailable, match=r"hung up at once\. Is it a proxy") as told:
            await PostgresBackend(options).connect()
    assert told.value.outcome == "refused"


async def test_payloads_that_postgres_calls_no_json_are_kept(postgres_server: Server, namespace: str) -> None:
    payloads = [b'"\\u0000"', b'"\\ud800"', b"[" * 5_000 + b"]" * 5_000, b"1" + b"0" * 5_000]
    async with opened(postgres_server.url, namespace) as store:
        await store.enqueue(*(job(f"j{number}", payload=each) for number, each in enumerate(payloads)))
        assert [each.payload for each in await store.dequeue(count=10)] == payloads


async def test_a_name_with_a_nul_is_refused(postgres_server: Server, namespace: str) -> None:
    async with opened(postgres_server.url, namespace) as store:
        with pytest.raises(InvalidOption):
            await store.add("a\0b")
        with pytest.raises(InvalidOption):
            await store.add("a", unique=Unique("k\0"))


async def test_a_schema_that_was_dropped_is_said(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    backend = PostgresBackend(PostgresOptions(connection_string=url, schema=namespace))
    await backend.connect()
    async with connected(url) as connection:
        await connection.execute(f'drop schema "{namespace}" cascade')
    with pytest.raises(StoreUnusable, match="dropped"):
        await backend.info()
    await backend.disconnect()


async def test_an_own_pool_is_used_and_left_open(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with asyncpg.create_pool(url, min_size=0, max_size=2) as pool:
        async with opened(url, namespace, pool=pool) as store:
            await store.add("a")
            assert await store.run() == "a"
        assert await pool.fetchval("values (1)") == 1


async def test_a_disconnect_waits_for_calls_that_were_accepted(postgres_server: Server, namespace: str) -> None:
    """Somebody holds the id, so that the call hangs in the middle."""
    url = postgres_server.url
    async with opened(url, namespace) as store, opened(url, namespace, "b") as other, connected(url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await other.backend.bind(connection).enqueue((job("a"),))

        async def both() -> None:
            async with asyncio.TaskGroup() as group:
                adding = group.create_task(store.add("a"))
                await asyncio.sleep(0)
                group.create_task(store.backend.disconnect())
            assert adding.result().created

        await beside(url, namespace, both(), transaction.rollback)
        assert await other.status("a") == "pending"
        await asyncio.gather(store.backend.connect(), store.backend.connect())
