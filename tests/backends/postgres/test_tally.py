"""How many ended jobs a queue keeps is counted once, not by each prune, and never too high."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from backends.postgres.stores import connected, opened
from backends.postgres.test_costs import cost
from psyqueue.backend import Change
from psyqueue.backend.state_rules import TEST_EPOCH_MS
from psyqueue.testing.conformance.handle import DAY_MS, PAGE_MAX, Store, ack
from psyqueue.testing.conformance.modes import switch
from psyqueue.testing.conformance.moving_house import drop, exported, take_in
from support.servers import Server

HOUR_MS = 3_600_000
FINAL_MS = 201
"""After this long an end is counted for good."""
CROWD = 60_000
_CROWD = """
    WITH laid AS (
        INSERT INTO body (n, id, digest, cold, payload)
        SELECT nextval('number'), 'crowd-' || i, '', '{}', '{}' FROM generate_series(1, $1::int) AS i RETURNING n, id
    )
    INSERT INTO job (
        n, created_at_ms, run_at_ms, completed_at_ms, priority, max_retries, max_lost, size, status, id, queue, lane,
        name
    ) SELECT n, 0, 0, $2::bigint + n / $3::int, 0, 3, 2, 4, 4, id, 'q', '', 'work' FROM laid
"""


async def finish(store: Store, count: int, first: int = 0) -> list[str]:
    """So many jobs, completed now."""
    ids = [f"job-{number:04}" for number in range(first, first + count)]
    for job_id in ids:
        await store.add(job_id)
    await store.settle(*(ack(each) for each in await store.dequeue(count=count)))
    return ids


async def pruned(store: Store) -> list[str]:
    found: list[str] = []
    while (done := await store.backend.prune(PAGE_MAX)).ids:
        found += done.ids
    return found


async def tally(connection: asyncpg.Connection, status: int = 4) -> int | None:
    found: int | None = await connection.fetchval("SELECT count FROM tally WHERE queue = 'q' AND status = $1", status)
    return found


@asynccontextmanager
async def counted(url: str, namespace: str, kept: int) -> AsyncIterator[tuple[Store, asyncpg.Connection]]:
    """A queue that keeps `kept` ended jobs, has ten, and they are counted for good."""
    async with opened(url, namespace) as store, connected(url) as connection:
        await connection.execute(f'SET search_path = "{namespace}"')
        await store.open_session()
        await store.limit(retain_ended=(DAY_MS, kept))
        await finish(store, 10)
        await store.advance(FINAL_MS)
        assert await pruned(store) == [f"job-{number:04}" for number in range(10 - min(kept, 10))]
        assert await tally(connection) == 10 - max(0, 10 - kept)
        yield store, connection


async def test_what_is_kept_is_not_counted_each_time(postgres_server: Server, namespace: str) -> None:
    """A crowd that may stay, of which two jobs share each instant: counted in two pieces, and then never again."""
    async with opened(postgres_server.url, namespace) as store, connected(postgres_server.url) as connection:
        await connection.execute(f'SET search_path = "{namespace}"')
        await connection.execute(_CROWD, CROWD, TEST_EPOCH_MS - HOUR_MS, 2)
        await store.limit(retain_ended=(DAY_MS, CROWD))
        assert (await store.backend.prune(PAGE_MAX)).more is True
        assert CROWD // 2 < (await tally(connection) or 0) < CROWD
        assert (await store.backend.prune(PAGE_MAX)).more is False
        assert await tally(connection) == CROWD
        await store.open_session()
        ids = await finish(store, 3)
        assert min([await cost(connection, namespace, "prune", PAGE_MAX) for _ in range(3)]) < 250
        assert await tally(connection) == CROWD - 3
        assert await store.statuses(*ids) == ["completed"] * 3
        await connection.execute("DELETE FROM job WHERE id LIKE 'crowd-%'; DELETE FROM body WHERE id LIKE 'crowd-%'")
        assert await tally(connection) == 0


async def test_a_crowd_that_ended_in_one_instant_is_counted_whole(postgres_server: Server, namespace: str) -> None:
    async with opened(postgres_server.url, namespace) as store, connected(postgres_server.url) as connection:
        await connection.execute(f'SET search_path = "{namespace}"')
        await connection.execute(_CROWD, CROWD, TEST_EPOCH_MS - HOUR_MS, CROWD * 100)
        await store.limit(retain_ended=(DAY_MS, CROWD))
        await store.backend.prune(PAGE_MAX)
        assert await tally(connection) == CROWD
        await connection.execute("DELETE FROM job WHERE id LIKE 'crowd-%'; DELETE FROM body WHERE id LIKE 'crowd-%'")


@pytest.mark.parametrize("deleter", ["purge", "another release"])
async def test_deleted_jobs_are_taken_off_whoever_deletes_them(
    postgres_server: Server, namespace: str, deleter: str
) -> None:
    """Else retention would delete as many more as somebody else did."""
    async with counted(postgres_server.url, namespace, 10) as (store, connection):
        if deleter == "purge":
            await store.amend(Change(kind="delete"), "job-0003", "job-0004")
        else:
            await connection.execute("DELETE FROM job WHERE id IN ('job-0003', 'job-0004')")
            await connection.execute("DELETE FROM body WHERE id IN ('job-0003', 'job-0004')")
        assert await tally(connection) == 8
        await finish(store, 3, 10)
        assert await pruned(store) == ["job-0000"]
        assert await store.count("completed") == 10


async def test_truncated_jobs_are_not_counted_on(postgres_server: Server, namespace: str) -> None:
    """No trigger of a release tells of it: the jobs that ended since would be too many, and deleted."""
    async with counted(postgres_server.url, namespace, kept=12) as (store, connection):
        await connection.execute("TRUNCATE job, body, error")
        ids = await finish(store, 6)
        await store.advance(FINAL_MS)
        assert await pruned(store) == []
        assert await store.statuses(*ids) == ["completed"] * 6
        assert await tally(connection) == 6


async def test_cancelled_and_completed_jobs_count_together(postgres_server: Server, namespace: str) -> None:
    async with counted(postgres_server.url, namespace, 10) as (store, connection):
        await store.add("unwanted")
        await store.cancel("unwanted")
        await store.advance(FINAL_MS)
        assert await pruned(store) == ["job-0000"]
        assert [await tally(connection, status) for status in (4, 6)] == [9, 1]


async def test_a_step_that_took_long_is_counted_within_the_hour(postgres_server: Server, namespace: str) -> None:
    """It brings an end older than what is counted: one job too many is kept until then, none too few."""
    async with counted(postgres_server.url, namespace, 10) as (store, connection):
        await store.add("late")
        await store.ack(await store.dequeue_one())
        await connection.execute("UPDATE job SET completed_at_ms = $1 WHERE id = 'late'", TEST_EPOCH_MS)
        assert await pruned(store) == []
        await store.advance(HOUR_MS + 1)
        assert len(await pruned(store)) == 1


async def test_a_clock_that_went_back_begins_the_count_anew(postgres_server: Server, namespace: str) -> None:
    async with counted(postgres_server.url, namespace, 10) as (store, connection):
        await connection.execute("UPDATE clock SET test_clock_ms = test_clock_ms - 60000")
        ids = await finish(store, 5, 10)
        assert await pruned(store) == ids
        assert await store.count("completed") == 10


async def test_jobs_that_are_moved_in_are_counted(postgres_server: Server, namespace: str) -> None:
    """They ended before what is counted, so that nobody would come to look at them."""
    async with counted(postgres_server.url, namespace, 10) as (store, _):
        await switch(store, "frozen")
        guests = [each for each in await exported(store, "jobs") if each.job.id in ("job-0000", "job-0001")]
        assert await drop(store, *guests) == 2
        await switch(store, "open")
        assert await pruned(store) == []
        await switch(store, "frozen")
        assert await take_in(store, *guests) == 2
        await switch(store, "open")
        await finish(store, 3, 10)
        assert await pruned(store) == ["job-0000", "job-0001", "job-0002"]


async def test_two_who_prune_at_once_leave_what_is_kept(postgres_server: Server, namespace: str) -> None:
    """The second passes over the jobs that the first has locked, and would take the next ones instead."""
    url = postgres_server.url
    async with counted(url, namespace, 10) as (store, connection):
        await finish(store, 5, 10)
        async with connection.transaction():
            await cost(connection, namespace, "prune", PAGE_MAX)
            assert (await store.backend.prune(PAGE_MAX)).ids == ()
        assert await pruned(store) == []
        assert await store.count("completed") == 10


async def test_pruning_walks_once_over_what_was_deleted(postgres_server: Server, namespace: str) -> None:
    """An old transaction keeps the entries of deleted jobs. What comes to light below is found a second later."""
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection, connected(url) as old:
        await connection.execute(f'SET search_path = "{namespace}"')
        await store.open_session()
        await finish(store, 1)
        await store.amend(Change(kind="hold"), "job-0000")
        await store.advance(FINAL_MS)
        await connection.execute(_CROWD, CROWD // 2, TEST_EPOCH_MS, CROWD * 100)
        await connection.execute("UPDATE job SET completed_at_ms = $1 WHERE id = 'job-0000'", TEST_EPOCH_MS - 1)
        await finish(store, 20, 1)
        await store.advance(FINAL_MS)
        await store.limit(retain_ended=(DAY_MS, CROWD))
        assert await pruned(store) == []
        async with old.transaction(isolation="repeatable_read"):
            await old.fetchval("SELECT count(*) FROM pg_class")
            await connection.execute(
                "DELETE FROM job WHERE id LIKE 'crowd-%'; DELETE FROM body WHERE id LIKE 'crowd-%'"
            )
            pages = []
            for kept in (18, 16, 14, 12):
                await store.limit(retain_ended=(DAY_MS, kept))
                pages.append(await cost(connection, namespace, "prune", PAGE_MAX))
            assert pages[0] > 4 * pages[-1], pages
            await store.amend(Change(kind="unhold"), "job-0000")
            await store.limit(retain_ended=(DAY_MS, 11))
            assert "job-0000" not in await pruned(store)
            await store.advance(1_001)
            await store.limit(retain_ended=(DAY_MS, 10))
            assert await pruned(store) == ["job-0000"]


async def test_a_queue_where_nothing_ends_is_forgotten(postgres_server: Server, namespace: str) -> None:
    async with counted(postgres_server.url, namespace, 0) as (store, connection):
        await store.advance(2 * HOUR_MS)
        await store.backend.prune(PAGE_MAX)
        assert await tally(connection) is None
