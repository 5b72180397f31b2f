"""A lone enqueue is one statement where nothing more is asked for, and the common way where it is.

Only PostgreSQL has two ways, and runs steps beside each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from backends.postgres.stores import LIMIT_S, beside, connected, opened
from backends.postgres.test_costs import enqueueing_lone, functions_called
from backends.postgres.test_moving import ids_of, switching
from psyqueue.backend import NewJob, Op
from psyqueue.backends._postgres.schema import this_release, wake_channel
from psyqueue.errors import NamespaceFrozen, QueueFull
from psyqueue.testing.conformance.handle import Store, job
from psyqueue.testing.conformance.modes import switch
from support.servers import Server

FIRST, NEXT = 1, 2
"""Turns of the client c: the first is the op that the next one replaces."""


async def called(connection: asyncpg.Connection, schema: str, turn: int, new: NewJob) -> Any:
    return await connection.fetchval(this_release().functions.call("enqueue_lone", schema), *enqueueing_lone(turn, new))


async def nothing(store: Store) -> None:
    pass


async def limited_elsewhere(store: Store) -> None:
    await store.limit(queue="other", pending_max=0)


async def limited_otherwise(store: Store) -> None:
    await store.limit(active_max=1)


async def limited(store: Store) -> None:
    await store.limit(pending_max=10)


async def limited_in_a_lane(store: Store) -> None:
    await store.limit(lane="tenant", pending_max=10)


async def filling(store: Store) -> None:
    await switch(store, "filling")


async def taken(store: Store) -> None:
    await store.add("new")


@pytest.mark.parametrize(
    ("before", "turn", "new", "is_short"),
    [
        pytest.param(nothing, NEXT, job("new"), True, id="plain"),
        pytest.param(nothing, NEXT, job("new", priority=3, max_retries=0, max_lost=0), True, id="with numbers"),
        pytest.param(nothing, NEXT, job("new", schedule_id="s", expires_in_ms=9), True, id="of a schedule, expiring"),
        pytest.param(limited_elsewhere, NEXT, job("new"), True, id="another queue is limited"),
        pytest.param(limited_otherwise, NEXT, job("new"), True, id="what runs is limited"),
        pytest.param(limited, NEXT, job("new"), False, id="what waits is limited"),
        pytest.param(limited_in_a_lane, NEXT, job("new"), False, id="a lane is limited"),
        pytest.param(filling, NEXT, job("new"), False, id="another mode"),
        pytest.param(taken, NEXT, job("new"), False, id="the id is taken"),
        pytest.param(nothing, NEXT, job("new", lane="tenant"), False, id="a lane"),
        pytest.param(nothing, NEXT, job("new", delay_ms=5), False, id="a delay"),
        pytest.param(nothing, NEXT, job("new", run_at_ms=1), False, id="a time"),
        pytest.param(nothing, NEXT + 1, job("new"), False, id="the op before changed nothing"),
        pytest.param(nothing, FIRST, job("first"), False, id="a repeat"),
    ],
)
async def test_the_short_way_is_for_the_usual_job_alone(
    postgres_server: Server,
    namespace: str,
    before: Callable[[Store], Awaitable[None]],
    turn: int,
    new: NewJob,
    is_short: bool,
) -> None:
    url, suffix = postgres_server.url, this_release().functions.suffix
    async with opened(url, namespace) as store, connected(url) as connection:
        assert await called(connection, namespace, FIRST, job("first")) == "1"
        await before(store)
        functions = await functions_called(url, namespace, "enqueue_lone", *enqueueing_lone(turn, new))
        assert ("enqueue" + suffix not in functions) == is_short
        assert await store.status(new.id) == ("scheduled" if new.delay_ms else "pending")


async def test_both_ways_write_the_same_job(postgres_server: Server, namespace: str) -> None:
    """The first op of a channel goes the common way."""
    url = postgres_server.url
    fields: dict[str, Any] = {"priority": 3, "max_retries": 1, "max_lost": 0, "schedule_id": "s", "expires_in_ms": 9}
    async with opened(url, namespace), connected(url) as connection:
        await called(connection, namespace, FIRST, job("first", **fields))
        await called(connection, namespace, NEXT, job("next", **fields))
        await called(connection, namespace, NEXT + 1, job("plain"))
        rows = await connection.fetch(
            f"""
            select to_jsonb(j) - '{{n,id,ready_number}}'::text[] as job, to_jsonb(b) - '{{n,id}}'::text[] as body,
                j.ready_number = j.n as is_last, j.expires_at_ms from "{namespace}".job as j
            join "{namespace}".body as b using (n, id) order by n
            """
        )
        assert rows[0] == rows[1]
        assert rows[2]["expires_at_ms"] is None
        assert all(row["is_last"] for row in rows)


@pytest.mark.parametrize("mode", ["draining", "frozen", "moved"])
async def test_a_closed_store_takes_nothing_the_short_way(postgres_server: Server, namespace: str, mode: Any) -> None:
    async with opened(postgres_server.url, namespace) as store:
        await store.add("first")
        await switch(store, mode)
        with pytest.raises(NamespaceFrozen):
            await store.add("late")
        assert await store.status("late") is None


async def test_a_full_queue_takes_nothing_the_short_way(postgres_server: Server, namespace: str) -> None:
    async with opened(postgres_server.url, namespace) as store:
        await store.limit(pending_max=1)
        await store.add("first")
        with pytest.raises(QueueFull):
            await store.add("late")
        await store.limit(pending_max=None)
        await store.add("next")
        assert await store.statuses("first", "late", "next") == ["pending", None, "pending"]


# ── beside others ─────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("mode", ["draining", "frozen", "moved"])
async def test_a_lone_enqueue_that_looked_at_the_mode_is_in_the_copy(
    each_postgres: Server, namespace: str, mode: Any
) -> None:
    """Between its look and its commit the mode is set: who set it is told when no such step is left."""
    url = each_postgres.url
    async with opened(url, namespace) as store, opened(url, namespace, "other") as other, connected(url) as connection:
        await called(connection, namespace, FIRST, job("first"))
        transaction = connection.transaction()
        await transaction.start()
        await called(connection, namespace, NEXT, job("early"))
        async with switching(store, other, mode):
            assert await ids_of(other) == ["first"]
            await transaction.commit()
        assert await ids_of(store) == ["first", "early"]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_copies_of_a_lone_enqueue_wait_for_each_other(each_postgres: Server, namespace: str, ending: str) -> None:
    url = each_postgres.url
    async with opened(url, namespace) as store, connected(url) as one, connected(url) as two:
        await called(one, namespace, FIRST, job("first"))
        transaction = one.transaction()
        await transaction.start()
        assert await called(one, namespace, NEXT, job("new")) == "1"
        again = called(two, namespace, NEXT, job("new"))
        assert await beside(url, namespace, again, getattr(transaction, ending)) == "1"
        assert await store.status("new") == "pending"
        assert await called(two, namespace, NEXT, job("new")) == "1"
        assert await two.fetchval(f'select array_agg(turn) from "{namespace}".turn where client = $1', "c") == [NEXT]


async def test_a_copy_that_goes_the_common_way_waits_too(each_postgres: Server, namespace: str) -> None:
    url = each_postgres.url
    async with opened(url, namespace) as store, connected(url) as one, connected(url) as two:
        await called(one, namespace, FIRST, job("first"))
        transaction = one.transaction()
        await transaction.start()
        assert await called(one, namespace, NEXT, job("new")) == "1"
        await store.limit(pending_max=10)
        again = called(two, namespace, NEXT, job("new"))
        assert await beside(url, namespace, again, transaction.commit) == "1"


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_an_op_that_comes_late_is_told_so(each_postgres: Server, namespace: str, ending: str) -> None:
    """The next one is at work, and its commit decides."""
    url = each_postgres.url
    async with opened(url, namespace) as store, connected(url) as one, connected(url) as two:
        await called(one, namespace, FIRST, job("first"))
        transaction = one.transaction()
        await transaction.start()
        await called(one, namespace, NEXT + 1, job("newest"))
        late = asyncio.gather(called(two, namespace, NEXT, job("late")), return_exceptions=True)
        (reply,) = await beside(url, namespace, late, getattr(transaction, ending))
        if ending == "commit":
            assert "STALE_OP" in str(reply)
        else:
            assert reply == "1"
        assert await store.statuses("newest", "late") == (
            ["pending", None] if ending == "commit" else [None, "pending"]
        )


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_two_that_take_one_id_in_the_same_moment(each_postgres: Server, namespace: str, ending: str) -> None:
    url = each_postgres.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.add("first")
        await called(connection, namespace, FIRST, job("other first"))
        transaction = connection.transaction()
        await transaction.start()
        await called(connection, namespace, NEXT, job("same"))
        reply = await beside(url, namespace, store.add("same"), getattr(transaction, ending))
        assert reply.created == (ending == "rollback")
        assert reply.status == "pending"
        assert await store.statuses("first", "other first", "same") == ["pending"] * 3


async def test_the_clock_is_kept_by_lone_enqueues(postgres_server: Server, namespace: str) -> None:
    """The monotone clock of the store is a second behind at most, whoever comes."""
    url = postgres_server.url
    async with opened(url, namespace, test_clock=False) as store, connected(url) as connection:
        await store.add("first")
        await connection.execute(f'update "{namespace}".clock set mono_ms = mono_ms - 5000')
        behind = await connection.fetchval(f'select mono_ms from "{namespace}".clock')
        await store.backend.enqueue(Op("tester", 0, 2), (job("next"),))
        assert await connection.fetchval(f'select mono_ms from "{namespace}".clock') >= behind + 5000


async def test_only_who_sleeps_for_its_queue_is_told_of_a_lone_job(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace), connected(url) as connection, connected(url) as listener:
        told: asyncio.Queue[Any] = asyncio.Queue()
        await listener.add_listener(wake_channel(namespace), lambda *notice: told.put_nowait(notice[-1]))
        await called(connection, namespace, FIRST, job("first"))
        await connection.execute(f"""insert into "{namespace}".sleeper values ('q', 'awaited', 'x', 9000000000000)""")
        await called(connection, namespace, NEXT, job("other", queue="other"))
        await called(connection, namespace, NEXT + 1, job("awaited", queue="awaited"))
        async with asyncio.timeout(LIMIT_S):
            assert await told.get() == "qawaited"
        assert told.empty()
        await connection.execute(f'delete from "{namespace}".sleeper')
