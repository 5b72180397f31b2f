"""What somebody deleted in the tables, instead of by `purge`: nothing that comes later stumbles over what is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from backends.postgres.stores import connected, opened
from psyqueue.backend import Change, Dependency, Gate, NewJob, Unique
from psyqueue.errors import UnknownDependency
from psyqueue.testing.conformance.handle import Store, job
from support.servers import Server

LIMIT_S = 20.0


@asynccontextmanager
async def deleted(url: str, schema: str, *jobs: NewJob) -> AsyncIterator[Store]:
    """A store where these were, and only their rows in `job` are gone. A step that never ends fails."""
    async with (
        asyncio.timeout(LIMIT_S),
        opened(url, schema, statement_timeout="5s") as store,
        connected(url) as connection,
    ):
        await store.enqueue(*jobs)
        await connection.execute(f'DELETE FROM "{schema}".job')
        yield store


async def test_their_ids_can_be_taken_again(postgres_server: Server, namespace: str) -> None:
    """Alone, in a batch, and with what needs a look at each."""
    gate = Gate(key="g", capacity=1)
    async with deleted(postgres_server.url, namespace, *map(job, ("a", "b", "c"))) as store:
        assert (await store.add("a")).created
        assert [each.created for each in await store.enqueue(job("b"), job("a"), job("d"))] == [True, False, True]
        assert (await store.add("c", gate=gate)).created
        assert await store.dequeue_ids() == ["a", "b", "d", "c"]


async def test_their_unique_keys_are_free(postgres_server: Server, namespace: str) -> None:
    unique = Unique(key="u")
    async with deleted(postgres_server.url, namespace, job("a", unique=unique)) as store:
        assert (await store.add("b", unique=unique)).created
        assert (await store.add("c", unique=unique)).job_id == "b"
        assert (await store.add("a")).created


async def test_nobody_can_need_them(postgres_server: Server, namespace: str) -> None:
    async with deleted(postgres_server.url, namespace, job("a")) as store:
        with pytest.raises(UnknownDependency, match="'a'"):
            await store.add("b", needs=(Dependency(job_id="a"),))
        assert (await store.add("a")).created


async def test_a_dead_job_is_replayed_with_their_unique_key(postgres_server: Server, namespace: str) -> None:
    unique = Unique(key="u")
    async with opened(postgres_server.url, namespace) as store, connected(postgres_server.url) as connection:
        await store.add("a", unique=unique)
        await store.bring_dead("a")
        await store.add("b", unique=unique)
        await connection.execute(f"""DELETE FROM "{namespace}".job WHERE id = 'b'""")
        await store.amend(Change(kind="replay"), "a")
        assert await store.status("a") == "pending"
        assert (await store.add("b")).created
