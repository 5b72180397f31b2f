"""A fetch without outcomes is short where it finds one job, or none, and goes the common way where there is more to it.

Only PostgreSQL has two ways, and runs steps beside each other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from asyncpg.transaction import Transaction

from backends.postgres.stores import LIMIT_S, beside, connected, opened
from backends.postgres.test_costs import functions_called
from backends.postgres.test_moving import ids_of, switching
from psyqueue.backend import Unique
from psyqueue.backends._postgres.encoding import Outcomes
from psyqueue.backends._postgres.marks import PAGES_DEAR
from psyqueue.backends._postgres.schema import this_release
from psyqueue.errors import NamespaceFrozen, SessionLost
from psyqueue.testing.conformance.handle import PAGE_MAX, Store, cancelled, job
from psyqueue.testing.conformance.modes import switch
from support.servers import Server

CLIENT, CHANNEL = "tester", 0
"""Of the store's handle, whose next turn a call by hand may take."""
BYTES_MAX = 1 << 20
NAME_MAX = 200


def fetching(turn: int, *, queue: str = "q", count: int = 10, counts: bool = False) -> tuple[Any, ...]:
    return (CLIENT, CHANNEL, turn, "s", queue, count, f"seed-{turn}", BYTES_MAX, counts)


async def called(connection: asyncpg.Connection, schema: str, *arguments: Any) -> list[str]:
    """Ids of what it brings."""
    rows = await connection.fetch(this_release().functions.call("dequeue_lone", schema), *arguments)
    return [row["id"] for row in rows if row["id"] is not None]


async def nothing(store: Store) -> None:
    pass


async def lone(store: Store) -> None:
    await store.add("new")


async def lone_of_many_fields(store: Store) -> None:
    await store.add("new", priority=3, schedule_id="s", expires_in_ms=9)


async def elsewhere(store: Store) -> None:
    await store.limit(queue="other", active_max=0)
    await store.add("new", queue="other", lane="tenant")
    await store.add("late", queue="other", delay_ms=1)


async def later(store: Store) -> None:
    await store.enqueue(job("new"), job("later", delay_ms=5))


async def limited_otherwise(store: Store) -> None:
    await store.limit(pending_max=5, retain_ended=(0, 0))
    await lone(store)


async def draining(store: Store) -> None:
    await lone(store)
    await switch(store, "draining")


async def keeping_its_key(store: Store) -> None:
    await store.add("held", unique=Unique("k"))
    await store.dequeue()
    await lone(store)


async def two(store: Store) -> None:
    await store.enqueue(job("new"), job("second"))


async def paused(store: Store) -> None:
    await store.limit(paused_until_ms=-1)
    await lone(store)


async def limited(store: Store) -> None:
    await store.limit(active_max=5)
    await lone(store)


async def rated(store: Store) -> None:
    await store.limit(starts_per_minute=5, starts_burst=5)
    await lone(store)


async def lane_limited(store: Store) -> None:
    await store.limit(lane="", active_max=5)
    await lone(store)


async def in_a_lane(store: Store) -> None:
    await store.add("new", lane="tenant")


async def beside_a_lane(store: Store) -> None:
    await store.enqueue(job("new"), job("other", lane="tenant"))
    await store.cancel("other")


async def due(store: Store) -> None:
    await store.add("new", delay_ms=5)
    await store.advance(5)


async def expired(store: Store) -> None:
    await store.enqueue(job("new"), job("old", expires_in_ms=5))
    await store.advance(5)


async def asked(store: Store) -> None:
    await store.add("asked")
    await store.dequeue()
    await store.cancel("asked")
    await lone(store)


async def unique(store: Store) -> None:
    await store.add("new", unique=Unique("k", while_=("waiting", "scheduled", "pending")))


@pytest.mark.parametrize(
    ("before", "brought", "is_short"),
    [
        pytest.param(nothing, [], True, id="nothing there"),
        pytest.param(lone, ["new"], True, id="one job"),
        pytest.param(lone_of_many_fields, ["new"], True, id="with a priority, of a schedule, expiring"),
        pytest.param(elsewhere, [], True, id="all of it in another queue"),
        pytest.param(later, ["new"], True, id="another one later"),
        pytest.param(limited_otherwise, ["new"], True, id="what waits is limited"),
        pytest.param(draining, ["new"], True, id="draining"),
        pytest.param(keeping_its_key, ["new"], True, id="beside a key"),
        pytest.param(two, ["new", "second"], False, id="two jobs"),
        pytest.param(paused, [], False, id="paused"),
        pytest.param(limited, ["new"], False, id="what runs is limited"),
        pytest.param(rated, ["new"], False, id="a rate"),
        pytest.param(lane_limited, ["new"], False, id="what runs is limited in its lane"),
        pytest.param(in_a_lane, ["new"], False, id="in a lane"),
        pytest.param(beside_a_lane, ["new"], False, id="lanes take turns"),
        pytest.param(due, ["new"], False, id="due"),
        pytest.param(expired, ["new"], False, id="another one expired"),
        pytest.param(asked, ["new"], False, id="a cancel is asked for"),
        pytest.param(unique, ["new"], False, id="its start lets a key go"),
    ],
)
async def test_the_short_way_is_for_one_usual_job_or_none(
    postgres_server: Server,
    namespace: str,
    before: Callable[[Store], Awaitable[None]],
    brought: list[str],
    is_short: bool,
) -> None:
    url, suffix = postgres_server.url, this_release().functions.suffix
    async with opened(url, namespace) as store:
        await store.open_session()
        await before(store)
        turn = store.op(CHANNEL).turn
        functions = await functions_called(url, namespace, "dequeue_lone", *fetching(turn))
        assert ("settle" + suffix not in functions) == is_short
        async with connected(url) as connection:
            again = await called(connection, namespace, *fetching(turn))
        assert again == brought
        assert await store.statuses(*brought) == ["active"] * len(brought)


async def test_the_first_op_of_a_channel_goes_the_common_way(postgres_server: Server, namespace: str) -> None:
    async with opened(postgres_server.url, namespace) as store, connected(postgres_server.url) as connection:
        await store.open_session()
        await store.add("new")
        assert await called(connection, namespace, "another", *fetching(1)[1:]) == ["new"]
        assert await called(connection, namespace, "another", *fetching(1)[1:]) == ["new"]


async def test_both_ways_start_the_same_job_and_say_the_same(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.open_session()
        found = []
        for name in ("settle", "dequeue_lone"):
            await store.enqueue(job("j-" + name, priority=3, schedule_id="s"), job("l-" + name, delay_ms=9_000))
            turn = store.op(CHANNEL).turn
            arguments = fetching(turn, count=1, counts=True)
            if name == "settle":
                arguments = (*arguments[:4], *Outcomes(()).arguments, ["q"], 1, arguments[6], BYTES_MAX, None, True)
            delivery, head = await connection.fetch(this_release().functions.call(name, namespace), *arguments)
            shown = "select to_jsonb(j) - '{n,id,ready_number,token}'::text[]"
            row = await connection.fetchval(f'{shown} from "{namespace}".job as j where id = $1', "j-" + name)
            said = await connection.fetchval("select $1::jsonb - '{d,seed,active}'::text[]", head["head"])
            rest = {key: value for key, value in delivery.items() if key not in ("n", "id")}
            found.append((row, said, rest))
        assert found[0] == found[1]


@pytest.mark.parametrize("jobs", [0, 1])
async def test_a_dear_look_is_marked_the_same_both_ways(postgres_server: Server, namespace: str, jobs: int) -> None:
    """An old transaction keeps the entries of what was started since. They are long: few fill many pages."""
    url, queue = postgres_server.url, "q" * NAME_MAX
    async with opened(url, namespace) as store, connected(url) as old, connected(url) as connection:
        await old.execute("begin isolation level repeatable read; select 1 from pg_class limit 1")
        await store.open_session()
        for part in range(4):
            await store.enqueue(*(job(f"{part}-{number}", queue) for number in range(PAGE_MAX)))
            await store.settle(*map(cancelled, await store.dequeue(queue, count=PAGE_MAX)))
        for number in range(jobs):
            await store.add(f"new {number}", queue)
        turn, marks = store.op(CHANNEL).turn, []
        own = fetching(turn, queue=queue)
        common = (*own[:4], *Outcomes(()).arguments, [queue], *own[5:8], None, False)
        for name, arguments in (("settle", common), ("dequeue_lone", own)):
            transaction = connection.transaction()
            await transaction.start()
            *deliveries, head = await connection.fetch(this_release().functions.call(name, namespace), *arguments)
            assert len(deliveries) == jobs
            marks.append(json.loads(head["head"])["w"])
            await transaction.rollback()
        if jobs:
            assert min(mark[queue].pop("p") for mark in marks) > PAGES_DEAR
            assert len(marks[0][queue]["l"]) == 1
        else:
            assert marks[0] is None
        assert marks[0] == marks[1]


async def test_what_the_session_holds_is_counted(postgres_server: Server, namespace: str) -> None:
    async with opened(postgres_server.url, namespace) as store:
        await store.open_session()
        await store.add("first")
        await store.dequeue()
        await store.add("second")
        reply = await store.settle(fetch=store.fetch(count=10, counts=True))
        assert [each.id for each in reply.deliveries] == ["second"]
        assert reply.held == 2


async def test_a_fetch_that_was_filled_says_that_there_may_be_more(postgres_server: Server, namespace: str) -> None:
    async with opened(postgres_server.url, namespace) as store:
        await store.open_session()
        for count, more in ((1, True), (2, False)):
            await store.add(f"job {count}")
            reply = await store.settle(fetch=store.fetch(count=count))
            assert (len(reply.deliveries), reply.more) == (1, more)


async def test_when_the_next_job_is_due_is_said_the_short_way(postgres_server: Server, namespace: str) -> None:
    async with opened(postgres_server.url, namespace) as store:
        await store.open_session()
        await store.enqueue(job("new"), job("later", delay_ms=700))
        for brought in (1, 0):
            reply = await store.settle(fetch=store.fetch(count=10))
            assert (len(reply.deliveries), reply.next_due_in_ms) == (brought, 700)


@pytest.mark.parametrize("mode", ["frozen", "moved"])
async def test_a_closed_store_gives_nothing_the_short_way(postgres_server: Server, namespace: str, mode: Any) -> None:
    async with opened(postgres_server.url, namespace) as store:
        await store.open_session()
        await store.add("new")
        await switch(store, mode)
        with pytest.raises(NamespaceFrozen):
            await store.dequeue()


@pytest.mark.parametrize("jobs", [0, 1])
async def test_a_closed_session_gets_nothing_the_short_way(postgres_server: Server, namespace: str, jobs: int) -> None:
    async with opened(postgres_server.url, namespace) as store:
        await store.open_session()
        await store.fill(jobs)
        await store.close_session()
        with pytest.raises(SessionLost):
            await store.dequeue()


async def test_a_look_that_finds_nothing_writes_nothing(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.open_session()
        turn = store.op(CHANNEL).turn
        async with connection.transaction():
            assert await called(connection, namespace, *fetching(turn)) == []
            assert await connection.fetchval("select pg_current_xact_id_if_assigned()") is None


async def test_the_clock_is_kept_by_lone_fetches(postgres_server: Server, namespace: str) -> None:
    """The monotone clock of the store is a second behind at most, whoever comes."""
    url = postgres_server.url
    async with opened(url, namespace, test_clock=False) as store, connected(url) as connection:
        await store.open_session()
        await connection.execute(f'update "{namespace}".clock set mono_ms = mono_ms - 5000')
        behind = await connection.fetchval(f'select mono_ms from "{namespace}".clock')
        assert await store.dequeue() == ()
        assert await connection.fetchval(f'select mono_ms from "{namespace}".clock') >= behind + 5000


# ── beside others ─────────────────────────────────────────────────────────────────────────────────────────────────────
@asynccontextmanager
async def under_way(url: str, schema: str) -> AsyncIterator[tuple[Store, int, Transaction]]:
    """A lone fetch that has started a job and is not committed: its store, its turn, its transaction."""
    async with opened(url, schema) as store, connected(url) as connection:
        await store.open_session()
        await store.add("new")
        store.op(CHANNEL)  # so that there is a turn before it
        turn = store.op(CHANNEL).turn
        transaction = connection.transaction()
        await transaction.start()
        assert await called(connection, schema, *fetching(turn)) == ["new"]
        yield store, turn, transaction


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_copies_of_a_lone_fetch_wait_for_each_other(each_postgres: Server, namespace: str, ending: str) -> None:
    url = each_postgres.url
    async with under_way(url, namespace) as (store, turn, transaction), connected(url) as two:
        again = called(two, namespace, *fetching(turn))
        assert await beside(url, namespace, again, getattr(transaction, ending)) == ["new"]
        assert (await store.view("new")).attempt == 1


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_lone_fetch_that_comes_late_is_told_so(each_postgres: Server, namespace: str, ending: str) -> None:
    """The next one is at work, and its commit decides."""
    url = each_postgres.url
    async with under_way(url, namespace) as (_, turn, transaction), connected(url) as two:
        late = asyncio.gather(called(two, namespace, *fetching(turn - 1)), return_exceptions=True)
        (reply,) = await beside(url, namespace, late, getattr(transaction, ending))
        if ending == "commit":
            assert "STALE_OP" in str(reply)
        else:
            assert reply == ["new"]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_lone_fetch_beside_the_end_of_its_session(each_postgres: Server, namespace: str, ending: str) -> None:
    """The session is closed, and its jobs are taken back: what is started now would be nobody's."""
    url = each_postgres.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.open_session()
        await store.add("new")
        transaction = connection.transaction()
        await transaction.start()
        closing = this_release().functions.call("close_session", namespace)
        await connection.fetchval(closing, "closer", 0, 1, "s", 500)
        fetch = asyncio.gather(store.dequeue(), return_exceptions=True)
        (reply,) = await beside(url, namespace, fetch, getattr(transaction, ending))
        if ending == "commit":
            assert isinstance(reply, SessionLost)
        assert await store.status("new") == ("pending" if ending == "commit" else "active")


async def test_a_session_does_not_end_beside_a_lone_fetch(each_postgres: Server, namespace: str) -> None:
    url = each_postgres.url
    async with under_way(url, namespace) as (store, _, transaction), opened(url, namespace, "other") as other:
        closed = await beside(url, namespace, other.close_session(), transaction.commit)
        assert closed.ids == ("new",)
        assert await store.status("new") == "pending"


async def test_who_comes_second_waits_for_nobody(each_postgres: Server, namespace: str) -> None:
    url = each_postgres.url
    async with opened(url, namespace) as store, opened(url, namespace, "other") as other, connected(url) as connection:
        await store.open_session()
        await other.open_session("o")
        await store.add("new")
        transaction = connection.transaction()
        await transaction.start()
        assert await called(connection, namespace, *fetching(store.op(CHANNEL).turn)) == ["new"]
        async with asyncio.timeout(LIMIT_S):
            assert await other.dequeue(session="o") == ()
        await transaction.rollback()
        assert await other.dequeue_ids(session="o") == ["new"]


@pytest.mark.parametrize("mode", ["frozen", "moved"])
async def test_a_lone_fetch_that_looked_at_the_mode_is_in_the_copy(
    each_postgres: Server, namespace: str, mode: Any
) -> None:
    """Between its look and its commit the mode is set: who set it is told when no such step is left."""
    url = each_postgres.url
    async with opened(url, namespace) as store, opened(url, namespace, "other") as other, connected(url) as connection:
        await store.open_session()
        await store.add("new")
        transaction = connection.transaction()
        await transaction.start()
        assert await called(connection, namespace, *fetching(store.op(CHANNEL).turn)) == ["new"]
        async with switching(other, store, mode):
            await transaction.commit()
        assert await ids_of(store) == ["new"]
        assert await store.status("new") == "active"
