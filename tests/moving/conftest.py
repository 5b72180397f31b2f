"""Two stores to move between: in memory, and in each kind of real store."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest
import pytest_asyncio

from psyqueue.backend import BackendAdapter
from psyqueue.backends._memory import MemoryBackend
from psyqueue.backends._postgres import PostgresBackend, PostgresOptions
from psyqueue.testing.conformance import Store
from support.names import new_name
from support.redis_store import redis_factory
from support.sqlite_store import sqlite_factory

Fresh = Callable[[], Awaitable[BackendAdapter]]
KINDS = ("sqlite", "redis", "postgres")
DIRECTIONS = [(old, new) for old in KINDS for new in KINDS]
BETWEEN = [(old, new) for old, new in DIRECTIONS if old != new]


async def in_memory() -> BackendAdapter:
    backend = MemoryBackend(test_clock=True)
    await backend.connect()
    return backend


async def in_schema(url: str) -> BackendAdapter:
    backend = PostgresBackend(PostgresOptions(connection_string=url, schema=new_name(), test_clock=True))
    await backend.connect()
    return backend


@pytest.fixture
def fresh_of(request: pytest.FixtureRequest) -> Callable[[str], Fresh]:
    """How to make a new store of a kind; servers are only started for those who ask."""

    @functools.cache
    def of(kind: str) -> Fresh:
        if kind == "memory":
            return in_memory
        if kind == "sqlite":
            return sqlite_factory(request.getfixturevalue("tmp_path")).fresh
        server = request.getfixturevalue(f"{kind}_server")
        if kind == "redis":
            return redis_factory(server.url, request.getfixturevalue("namespace")).fresh
        return partial(in_schema, server.url)

    return of


@pytest_asyncio.fixture
async def stores() -> AsyncIterator[tuple[Store, Store]]:
    """Two in memory: where many moves are made, and killed."""
    old, new = Store(await in_memory()), Store(await in_memory(), client="new")
    yield old, new
    assert await old.broken() == []
    assert await new.broken() == []


@contextlib.asynccontextmanager
async def _opened(kinds: tuple[str, str], fresh_of: Callable[[str], Fresh]) -> AsyncIterator[tuple[Store, Store]]:
    opened = [await fresh_of(kind)() for kind in kinds]
    try:
        yield Store(opened[0]), Store(opened[1], client="new")
    finally:
        for backend in opened:
            await backend.disconnect()


@pytest_asyncio.fixture(params=DIRECTIONS, ids="-".join)
async def ends(request: pytest.FixtureRequest, fresh_of: Callable[[str], Fresh]) -> AsyncIterator[tuple[Store, Store]]:
    """Every direction between real stores, within one too."""
    async with _opened(request.param, fresh_of) as stores:
        yield stores


@pytest_asyncio.fixture(params=BETWEEN, ids="-".join)
async def different(
    request: pytest.FixtureRequest, fresh_of: Callable[[str], Fresh]
) -> AsyncIterator[tuple[Store, Store]]:
    """Every direction between real stores of two kinds."""
    async with _opened(request.param, fresh_of) as stores:
        yield stores
