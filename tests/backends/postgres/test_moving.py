"""Moving house on PostgreSQL: the mode waits for transactions of others, and what an import does to numbers and marks.

That nothing is lost or changed on the way is shown for every store by the conformance suite.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from backends.postgres.stores import LIMIT_S, beside, connected, opened
from psyqueue.backend import Mode, MovedJob, Numbers, Unique
from psyqueue.errors import InvalidState, NamespaceFrozen, StoreBusy
from psyqueue.testing.conformance.handle import Store, ack, job
from psyqueue.testing.conformance.modes import switch
from psyqueue.testing.conformance.moving_house import exported, take_in
from support.marks import Everlasting
from support.servers import Server

ROUNDS = 20
"""Round trips in which who does not wait would be done."""


async def ids_of(store: Store) -> list[str]:
    return [each.job.id for each in await exported(store, "jobs")]


async def still_waits(task: asyncio.Task[None], other: Store) -> None:
    for _ in range(ROUNDS):
        await other.backend.info()
    assert not task.done(), task


@asynccontextmanager
async def switching(store: Store, other: Store, mode: Mode) -> AsyncIterator[asyncio.Task[None]]:
    """The mode is set, and its caller is told nothing yet. Behind the block he is told."""
    task = asyncio.ensure_future(switch(store, mode))
    async with asyncio.timeout(LIMIT_S):
        while (await other.backend.info()).mode != mode:
            assert not task.done(), task
        await still_waits(task, other)
        yield task
        await task


# ── what began before the mode was set ────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("mode", ["draining", "frozen", "moved"])
async def test_a_job_of_a_callers_transaction_is_in_the_copy(each_postgres: Server, namespace: str, mode: Mode) -> None:
    url = each_postgres.url
    async with opened(url, namespace) as store, opened(url, namespace, "other") as other, connected(url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await store.backend.bind(connection).enqueue((job("early"),))
        async with switching(store, other, mode):
            with pytest.raises(NamespaceFrozen):
                await store.backend.bind(connection).enqueue((job("late"),))
            assert await ids_of(other) == []
            await transaction.commit()
        assert await ids_of(store) == ["early"]


async def test_a_transaction_that_has_written_nothing_yet_is_waited_for(each_postgres: Server, namespace: str) -> None:
    """It looked at the mode, and waits for a key: no snapshot shows that it is there."""
    url = each_postgres.url
    async with (
        opened(url, namespace) as store,
        opened(url, namespace, "other") as other,
        connected(url) as first,
        connected(url) as second,
    ):
        holding, waiting = first.transaction(), second.transaction()
        await holding.start()
        await store.backend.bind(first).enqueue((job("holds", unique=Unique("u")),))
        await waiting.start()
        enqueued = store.backend.bind(second).enqueue((job("early", unique=Unique("u")),))

        async def set_mode() -> None:
            async with switching(store, other, "frozen") as setting:
                await holding.rollback()
                await task
                await still_waits(setting, other)
                await waiting.commit()

        task = asyncio.ensure_future(enqueued)
        await beside(url, namespace, asyncio.shield(task), set_mode)
        assert await ids_of(store) == ["early"]


async def test_a_prepared_transaction_is_waited_for(own_servers: Any, namespace: str) -> None:
    url = own_servers.postgres(settings=("max_prepared_transactions=4",)).url
    async with opened(url, namespace) as store, opened(url, namespace, "other") as other, connected(url) as connection:
        await connection.execute("begin")
        await store.backend.bind(connection).enqueue((job("early"),))
        async with switching(store, other, "frozen") as setting:
            await connection.execute("prepare transaction 'early'")
            await still_waits(setting, other)
            await connection.execute("commit prepared 'early'")
        assert await ids_of(store) == ["early"]


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_a_transaction_with_an_old_view_sees_that_it_is_old(
    postgres_server: Server, namespace: str, isolation: Any
) -> None:
    """It began before the mode was set, and used the store only afterwards: nobody waits for it."""
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        transaction = connection.transaction(isolation=isolation)
        await transaction.start()
        await connection.execute(f'select * from "{namespace}".jobs')
        await switch(store, "frozen")
        with pytest.raises(StoreBusy, match="do the whole transaction again"):
            await store.backend.bind(connection).enqueue((job("late"),))
        await transaction.rollback()
        assert await ids_of(store) == []
        await switch(store, "open")
        async with connection.transaction(isolation=isolation):
            await store.backend.bind(connection).enqueue((job("a"), job("b")))
            await switch(store, "open")  # it keeps nobody from setting the mode
        assert await store.count("pending") == 2


async def test_who_waits_for_too_long_is_told_for_whom_and_may_go_on(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    # Making the store may take longer.
    async with opened(url, namespace), opened(url, namespace, statement_timeout="2s") as store:
        connection = await asyncpg.connect(url, server_settings={"application_name": "shop's import"})
        try:
            transaction = connection.transaction()
            await transaction.start()
            await store.backend.bind(connection).enqueue((job("early"),))
            op = store.op()
            with pytest.raises(
                StoreBusy, match=r"1 transaction .* may still commit.*pid \d+, \"shop's import\", since 2"
            ):
                await store.backend.set_mode(op, "frozen", 1)
            assert (await store.backend.info()).mode == "frozen"
            with pytest.raises(StoreBusy):
                await store.backend.set_mode(op, "frozen", 1)
            await transaction.commit()
        finally:
            await connection.close()
        assert (await store.backend.set_mode(op, "frozen", 1)).epoch == 1
        assert await ids_of(store) == ["early"]


# ── what an import does to numbers and marks ──────────────────────────────────────────────────────────────────────────
async def test_an_imported_job_before_the_mark_of_a_fetch_is_next(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace, marks=Everlasting()) as store, opened(url, namespace, "other") as other:
        await other.fill(4)
        (first, *_) = await exported(other, "jobs")
        assert await store.dequeue_ids(count=2) == ["q-0000", "q-0001"]
        await switch(other, "frozen")
        older = replace(first, job=replace(first.job, id="older"), number=-1, ready_number=-1)
        assert await take_in(other, older) == 1
        await switch(other, "open")
        assert await store.dequeue_ids(count=2) == ["older", "q-0002"]


async def test_a_number_that_another_job_has_is_refused(postgres_server: Server, namespace: str) -> None:
    async with opened(postgres_server.url, namespace) as store:
        await store.fill(2)
        a: MovedJob
        a, b = await exported(store, "jobs")
        await switch(store, "frozen")
        taken = replace(a, job=replace(a.job, id="new"))
        free = replace(a, job=replace(a.job, id="free"), number=b.number + 10)
        twins = (free, replace(free, job=replace(a.job, id="twin")))
        for items in ((taken,), (a, free, taken), twins):
            with pytest.raises(InvalidState, match=r"its number \d+ is that of another job"):
                await take_in(store, *items)
        assert await take_in(store, a, b, free) == 1


async def test_numbers_are_given_behind_those_that_came_in(postgres_server: Server, namespace: str) -> None:
    """Also in a store that goes on working, by short ways and by long ones."""
    async with opened(postgres_server.url, namespace) as store:
        await store.add("a")
        (a,) = await exported(store, "jobs")
        for number in (a.number + 1, a.number + 500, a.number + 1_000_000):
            moved = replace(a, job=replace(a.job, id=f"{number}"), number=number, ready_number=number, held=True)
            await take_in(store, moved)
            await store.add(f"behind {number}")
            *_, last = await exported(store, "jobs")
            assert (last.job.id, last.number, last.ready_number) == (f"behind {number}", number + 1, number + 1)
            assert await exported(store, "numbers") == [Numbers(last.number, last.number)]


async def test_a_settled_job_is_in_the_copy(postgres_server: Server, namespace: str) -> None:
    """A delivery that a caller settles in his own transaction, with what follows from it."""
    url = postgres_server.url
    async with opened(url, namespace) as store, opened(url, namespace, "other") as other, connected(url) as connection:
        await store.add("a")
        delivery = await store.dequeue_one()
        transaction = connection.transaction()
        await transaction.start()
        await store.backend.bind(connection).settle("s", (ack(delivery),))
        async with switching(store, other, "frozen"):
            assert await store.status("a") == "active"
            await transaction.commit()
        (moved,) = await exported(store, "jobs")
        assert moved.status == "completed"
