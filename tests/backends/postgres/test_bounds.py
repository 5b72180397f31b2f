"""What a call looks at is bounded by what it is asked for: pages touched beside 100,000 jobs that it has no use for.

The plans are the same on a young table, which has no statistics, and after an ANALYZE.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from backends.postgres.stores import LIMIT_S, connected, opened
from backends.postgres.test_costs import cost, enqueueing_lone, functions_called, settling
from psyqueue.backend import UNTIL_RESUMED
from psyqueue.testing.conformance.handle import DAY_MS, LEASE_MS, PAGE_MAX, Store, ack, job
from support.servers import Server

CROWD = 100_000
_CROWD = """
    INSERT INTO job (n, created_at_ms, run_at_ms, ready_number, completed_at_ms, session, priority, max_retries,
        max_lost, size, status, token, id, queue, lane, name)
    SELECT nextval('number'), 0, 4102444800000, i, CASE WHEN $1 >= 4 THEN 4102444800000 END,
        CASE WHEN $1 = 3 THEN $2::bigint END, 0, 3, 2, 10, $1, CASE WHEN $1 = 3 THEN 'seed' END,
        'crowd-' || i, $3, $4, 'work'
    FROM generate_series(1, $5::int) AS i
"""
PENDING, ACTIVE, SCHEDULED, COMPLETED = 2, 3, 1, 4


@asynccontextmanager
async def crowded(
    url: str, schema: str, status: int, queue: str = "crowd", lane: str = "", *, has_statistics: bool = True
) -> AsyncIterator[tuple[Store, asyncpg.Connection]]:
    """A store with a crowd, which is gone before the store is looked through. The session `crowd` holds active ones."""
    async with opened(url, schema) as store, connected(url) as connection:
        await store.open_session("crowd", lease_ms=DAY_MS * 99)
        await store.open_session()
        await connection.execute(f'SET search_path = "{schema}"; ALTER TABLE job SET (autovacuum_enabled = off)')
        session = await connection.fetchval("SELECT n FROM session WHERE id = 'crowd'")
        await connection.execute(_CROWD, status, session, queue, lane, CROWD)
        if lane:
            await connection.execute("INSERT INTO lane (queue, lane) VALUES ($1, $2)", queue, lane)
        if has_statistics:
            await connection.execute("ANALYZE job")
        try:
            yield store, connection
        finally:
            await connection.execute("DELETE FROM job WHERE id LIKE 'crowd-%'")


statistics = pytest.mark.parametrize("has_statistics", [False, True], ids=["young", "analyzed"])


@statistics
@pytest.mark.parametrize("queue", ["q", "crowd"])
async def test_a_limit_on_what_runs_counts_up_to_itself(
    postgres_server: Server, namespace: str, queue: str, has_statistics: bool
) -> None:
    """The crowd runs: in the queue, which is full then, or in another one."""
    crowd = crowded(postgres_server.url, namespace, ACTIVE, queue, has_statistics=has_statistics)
    async with crowd as (store, connection):
        await store.limit(active_max=10)
        await store.fill(4)
        calls = [settling(turn, (), f"seed-{turn}", 1) for turn in range(1, 5)]
        pages = [await cost(connection, namespace, "settle", *each) for each in calls]
        assert await store.status("q-0003") == ("pending" if queue == "q" else "active")
    assert min(pages) < 120


@statistics
async def test_what_is_paused_is_looked_for_by_itself(
    postgres_server: Server, namespace: str, has_statistics: bool
) -> None:
    """When a lane may start again is of interest if it has jobs: the crowd waits in another lane."""
    crowd = crowded(postgres_server.url, namespace, PENDING, "q", has_statistics=has_statistics)
    async with crowd as (store, connection):
        await store.limit(lane="tenant", paused_until_ms=UNTIL_RESUMED)
        calls = [settling(turn, (), f"seed-{turn}", 0) for turn in range(1, 5)]
        pages = [await cost(connection, namespace, "settle", *each) for each in calls]
    assert min(pages) < 120


async def test_a_fetch_looks_at_as_many_lanes_as_it_has_room_for(postgres_server: Server, namespace: str) -> None:
    """A function is called for each that it looks at: its limits, its head."""
    url = postgres_server.url
    async with opened(url, namespace) as store:
        await store.open_session()
        for first in range(0, 2_000, PAGE_MAX):
            await store.enqueue(*(job(f"{n}", lane=f"{n:04}") for n in range(first, first + PAGE_MAX)))
        calls = await functions_called(url, namespace, "settle", *settling(1, (), "seed", 10))
        assert await store.count("active") == 10
    assert sum(calls.values()) < 200, calls


async def test_a_lane_that_was_pruned_while_its_first_job_came_in_has_its_turn(
    postgres_server: Server, namespace: str
) -> None:
    """Without a row it would get none before all others had theirs."""
    async with opened(postgres_server.url, namespace) as store, connected(postgres_server.url) as connection:
        await store.fill(10, lane="a")
        await store.add("late", lane="b")
        assert await store.run() == "q-0000"
        await connection.execute(f"""DELETE FROM "{namespace}".lane WHERE lane = 'b'""")
        await store.backend.prune(PAGE_MAX)
        assert await store.run() == "late"


async def test_a_lane_without_a_row_is_served_when_the_others_are_empty(
    postgres_server: Server, namespace: str
) -> None:
    async with opened(postgres_server.url, namespace) as store, connected(postgres_server.url) as connection:
        await store.fill(2, lane="a")
        await store.add("late", lane="b")
        await connection.execute(f"""DELETE FROM "{namespace}".lane WHERE lane = 'b'""")
        assert await store.dequeue_ids() == ["q-0000", "q-0001", "late"]


@statistics
@pytest.mark.parametrize("lane", [None, "tenant"])
async def test_a_limit_on_what_waits_counts_up_to_itself(
    postgres_server: Server, namespace: str, lane: str | None, has_statistics: bool
) -> None:
    """The crowd waits in the queue's other lane, or, where the whole queue is limited, in another queue."""
    queue, other = ("q", "other") if lane else ("crowd", "")
    crowd = crowded(postgres_server.url, namespace, PENDING, queue, other, has_statistics=has_statistics)
    async with crowd as (store, connection):
        await store.limit(lane=lane, pending_max=10)
        calls = [enqueueing_lone(turn, job(f"job-{turn}", lane=lane or "")) for turn in range(1, 5)]
        pages = [await cost(connection, namespace, "enqueue_lone", *each) for each in calls]
    assert min(pages) < 100


async def bounded(connection: asyncpg.Connection, schema: str, verb: str, *arguments: Any) -> int:
    """The fewest pages of a few calls: one makes the plans, and another may have to make one anew."""
    return min([await cost(connection, schema, verb, *arguments) for _ in range(4)])


@statistics
async def test_a_reaper_looks_at_what_was_lost(postgres_server: Server, namespace: str, has_statistics: bool) -> None:
    crowd = crowded(postgres_server.url, namespace, ACTIVE, has_statistics=has_statistics)
    async with crowd as (store, connection):
        ids = await store.fill(4)
        await store.backend.reap(PAGE_MAX)
        await store.dequeue(count=4)
        await store.advance(LEASE_MS + 1)
        assert await bounded(connection, namespace, "reap", 1) < 150
        assert set(await store.statuses(*ids)) == {"pending"}


@statistics
async def test_promotion_looks_at_what_is_due(postgres_server: Server, namespace: str, has_statistics: bool) -> None:
    crowd = crowded(postgres_server.url, namespace, SCHEDULED, "q", has_statistics=has_statistics)
    async with crowd as (store, connection):
        await store.enqueue(*(job(f"due-{each}", delay_ms=1_000) for each in range(4)))
        await store.enqueue(*(job(f"late-{each}", expires_in_ms=1_000) for each in range(4)))
        await store.advance(1_001)
        assert await bounded(connection, namespace, "promote", ["q"], 1) < 100
        assert set(await store.statuses(*(f"due-{each}" for each in range(4)))) == {"pending"}
        assert set(await store.statuses(*(f"late-{each}" for each in range(4)))) == {"dead"}


@statistics
@pytest.mark.parametrize("status", [PENDING, ACTIVE])
async def test_pruning_looks_at_what_has_ended(
    postgres_server: Server, namespace: str, status: int, has_statistics: bool
) -> None:
    crowd = crowded(postgres_server.url, namespace, status, "q", has_statistics=has_statistics)
    async with crowd as (store, connection):
        ids = await store.fill(4, "other")
        for delivery in await store.dequeue("other", count=4):
            await store.ack(delivery)
        await store.advance(DAY_MS + 1)
        assert await bounded(connection, namespace, "prune", 1) < 250
        assert set(await store.statuses(*ids)) == {None}


@statistics
async def test_pruning_passes_over_a_queue_that_keeps_all(
    postgres_server: Server, namespace: str, has_statistics: bool
) -> None:
    crowd = crowded(postgres_server.url, namespace, COMPLETED, "a", has_statistics=has_statistics)
    async with crowd as (store, connection):
        await store.limit("a", retain_ended=None)
        assert await bounded(connection, namespace, "prune", 1) < 250


@statistics
@pytest.mark.parametrize("status", [PENDING, COMPLETED])
async def test_queues_reads_an_index_once(
    postgres_server: Server, namespace: str, status: int, has_statistics: bool
) -> None:
    """Exact counts are as many entries as there are jobs, and rows that no vacuum has seen; each is read once."""
    crowd = crowded(postgres_server.url, namespace, status, "a", has_statistics=has_statistics)
    async with crowd as (store, connection):
        await store.add("one", "b")
        index = "job_unstarted" if status == PENDING else "job_ended"
        size = await connection.fetchval(
            "SELECT (pg_relation_size('job') + pg_relation_size($1::regclass)) / 8192", index
        )
        assert await bounded(connection, namespace, "queues", "", None, 10) < size * 1.2
        infos, _ = await store.backend.queues("", None, 10)
        assert [(info.queue, sum(info.counts.values())) for info in infos] == [("a", CROWD), ("b", 1)]


_OLD_VIEWS = """
    SELECT count(*) FROM pg_stat_activity, pg_sleep(0.02) WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
"""


async def until_nobody_looks_back(connection: asyncpg.Connection) -> None:
    """Who has an older view keeps what was deleted from being cleaned: the server, too, when it analyzes a table."""
    async with asyncio.timeout(LIMIT_S):
        while await connection.fetchval(_OLD_VIEWS):
            pass


async def test_room_that_pruning_frees_is_used_again(postgres_server: Server, namespace: str) -> None:
    """Rounds of jobs in, out and deleted; the server's own cleaning is done by hand, so that it is done in each."""
    sizes = []
    async with opened(postgres_server.url, namespace) as store, connected(postgres_server.url) as connection:
        await store.limit(retain_ended=(0, 0))
        await connection.execute(f'SET search_path = "{namespace}"')
        for number in range(6):
            await store.enqueue(*(job(f"{number}-{each}", payload=b"x" * 500) for each in range(PAGE_MAX)))
            await store.settle(*(ack(each) for each in await store.dequeue(count=PAGE_MAX)))
            await store.advance(1)
            assert (await store.backend.prune(PAGE_MAX)).count == PAGE_MAX
            await until_nobody_looks_back(connection)
            await connection.execute("VACUUM job, body")
            sizes.append(
                await connection.fetchval("SELECT pg_total_relation_size('job') + pg_total_relation_size('body')")
            )
    assert sizes[-1] <= sizes[1] * 1.1, sizes


async def test_pruning_counts_in_pieces(postgres_server: Server, namespace: str) -> None:
    """More is kept than one call counts: the next one goes on where it was, and the one after that begins anew."""
    async with crowded(postgres_server.url, namespace, COMPLETED, "a") as (store, connection):
        await store.limit("a", retain_ended=(DAY_MS, CROWD * 2))
        await store.fill(1, "b")
        await store.ack(await store.dequeue_one("b"))
        await store.advance(DAY_MS + 1)
        first, second, third = [await store.backend.prune(PAGE_MAX) for _ in range(3)]
        assert (first.ids, first.more) == ((), True)
        assert (second.ids, second.more) == (("b-0000",), False)
        assert (third.ids, third.more) == ((), False)


@pytest.mark.parametrize("table", ["gate", "lane"])
async def test_what_nobody_uses_is_looked_for_in_pieces(postgres_server: Server, namespace: str, table: str) -> None:
    """A call looks at ten and may delete one. The first ten are in use, and do not keep it from what is behind them."""
    columns = {"gate": "(key, places) SELECT 'g' || i", "lane": "(queue, lane, turn) SELECT 'q', 'l' || i"}[table]
    rows = f"INSERT INTO {table} {columns}, (i < 20)::int FROM generate_series(10, 39) AS i"
    async with opened(postgres_server.url, namespace) as store, connected(postgres_server.url) as connection:
        await connection.execute(f'SET search_path = "{namespace}"; {rows}')
        left = [30]
        while left[-1] > 10 and len(left) < 100:
            await store.backend.prune(1)
            left.append(await connection.fetchval(f"SELECT count(*) FROM {table}"))
        assert left[-1] == 10
        assert {before - after for before, after in itertools.pairwise(left)} == {0, 1}
        await connection.execute(f"DELETE FROM {table}")
