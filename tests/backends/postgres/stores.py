"""Stores on the tests' server, and a look at who waits for a lock there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg

from psyqueue.backends._postgres import PostgresBackend, PostgresOptions
from psyqueue.backends._postgres.marks import Marks
from psyqueue.backends._postgres.schema import Release
from psyqueue.testing.conformance.handle import Store

R = TypeVar("R")
LIMIT_S = 20.0
_IS_BLOCKED = """
    select count(*) from pg_stat_activity, pg_sleep(0.01) where wait_event_type = 'Lock' and query like $1
"""


@asynccontextmanager
async def opened(
    url: str,
    schema: str,
    client: str = "tester",
    *,
    marks: Marks | None = None,
    release: Release | None = None,
    **options: Any,
) -> AsyncIterator[Store]:
    """A client of the store in `schema`; whole at the end. `release`: of which, by default this one."""
    options = {"test_clock": True, **options}
    backend = PostgresBackend(PostgresOptions(connection_string=url, schema=schema, **options), marks, release=release)
    await backend.connect()
    try:
        store = Store(backend, client=client)
        yield store
        assert await store.broken() == []
    finally:
        await backend.disconnect()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def beside(url: str, schema: str, waits: Awaitable[R], then: Callable[[], Awaitable[Any]]) -> R:
    """The reply of `waits`, which has to wait for a lock that `then` lets go."""
    task = asyncio.ensure_future(waits)
    async with asyncio.timeout(LIMIT_S), connected(url) as looker:
        while not await looker.fetchval(_IS_BLOCKED, f'%"{schema}"%'):
            assert not task.done(), f"it waited for nothing: {task}"
        await then()
        return await task
