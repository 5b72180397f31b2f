"""Fetches that begin where the last one did: what came back to an older place is found, dead entries are not walked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from backends.postgres.stores import connected, opened
from psyqueue.backend import Change, Unique
from psyqueue.backends._postgres.encoding import Outcomes
from psyqueue.backends._postgres.marks import PAGES_DEAR, WHOLE_MS, Marks
from psyqueue.backends._postgres.schema import this_release
from psyqueue.job import PRIORITY_MAX
from psyqueue.testing.conformance.handle import LEASE_MS, PAGE_MAX, Store, ack, job, release, retry
from support.marks import Eager, Everlasting
from support.servers import Server

Way = Callable[[Store], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def released(other: Store) -> AsyncIterator[None]:
    delivery = await other.dequeue_one(session="o")
    yield
    await other.settle(release(delivery), session="o")


@asynccontextmanager
async def handed_back(other: Store) -> AsyncIterator[None]:
    await other.dequeue_one(session="o")
    yield
    await other.close_session("o")


@asynccontextmanager
async def lost(other: Store) -> AsyncIterator[None]:
    await other.open_session("o", lease_ms=LEASE_MS // 2)
    await other.dequeue_one(session="o")
    yield
    await other.backend.reap(PAGE_MAX)
    await other.advance(LEASE_MS // 2 + 1)
    assert (await other.backend.reap(PAGE_MAX)).ids == ("older",)


@asynccontextmanager
async def unheld(other: Store) -> AsyncIterator[None]:
    await other.amend(Change(kind="hold"), "older")
    yield
    await other.amend(Change(kind="unhold"), "older")


@asynccontextmanager
async def raised(other: Store) -> AsyncIterator[None]:
    await other.amend(Change(kind="priority", priority=-1), "older")
    yield
    await other.amend(Change(kind="priority", priority=0), "older")


@asynccontextmanager
async def replaced(other: Store) -> AsyncIterator[None]:
    await other.amend(Change(kind="priority", priority=-1), "older")
    yield
    await other.add("newer", unique=Unique("k", on_conflict="replace"), digest=b"other")


@pytest.mark.parametrize("way", [released, handed_back, lost, unheld, raised, replaced])
async def test_what_another_client_puts_back_is_next(postgres_server: Server, namespace: str, way: Way) -> None:
    """Our mark is behind it, and no look at the whole helps."""
    url = postgres_server.url
    async with opened(url, namespace, marks=Everlasting()) as store, opened(url, namespace, "other") as other:
        await other.add("older", unique=Unique("k"))
        await store.fill(4)
        async with way(other):
            assert await store.dequeue_ids(count=1) == ["q-0000"]
            assert await store.dequeue_ids(count=1) == ["q-0001"]
        assert await store.dequeue_ids(count=2) == ["older", "q-0002"]


async def test_all_priorities_are_found_in_their_order(postgres_server: Server, namespace: str) -> None:
    """Known ones, new ones above, between and below them, and the ends of the range."""
    rounds = (
        (0,),
        (1, 0),
        (5, 0),
        (3, 0, 7, -2, 5),
        (6, 0, 9, -9, 0),
        (PRIORITY_MAX, 9, -PRIORITY_MAX, 8),
        (10, -10, 0),
    )
    async with opened(postgres_server.url, namespace, marks=Everlasting()) as store:
        for turn, numbers in enumerate(rounds * 2):
            await store.enqueue(*(job(f"{turn}-{at}", priority=number) for at, number in enumerate(numbers)))
            found = [each.priority for _ in range(3) for each in await store.dequeue(count=2)]
            assert found == sorted(numbers, reverse=True)


async def test_a_mark_below_what_a_look_reached_is_forgotten(postgres_server: Server, namespace: str) -> None:
    """A job of a low priority comes back; the look that follows ends among those of a high one."""
    url = postgres_server.url
    async with opened(url, namespace, marks=Everlasting()) as store, opened(url, namespace, "other") as other:
        await other.add("older")
        async with released(other):
            await store.fill(3)
            assert await store.dequeue_ids(count=2) == ["q-0000", "q-0001"]
        await store.enqueue(job("high", priority=5))
        assert await store.dequeue_ids(count=1) == ["high"]
        assert await store.dequeue_ids() == ["older", "q-0002"]


async def test_many_priorities_are_looked_at_as_a_whole(postgres_server: Server, namespace: str) -> None:
    async with opened(postgres_server.url, namespace, marks=Everlasting()) as store:
        for turn in range(2):
            await store.enqueue(*(job(f"{turn}-{number}", priority=number) for number in range(40)))
            assert [each.priority for each in await store.dequeue(count=20)] == list(range(39, 19, -1))
            assert [each.priority for each in await store.dequeue(count=20)] == list(range(19, -1, -1))


async def test_what_is_due_later_is_found_behind_a_mark(postgres_server: Server, namespace: str) -> None:
    async with opened(postgres_server.url, namespace, marks=Eager()) as store:
        await store.fill(3)
        first, second = await store.dequeue(count=2)
        await store.settle(retry(first, 1_000), fetch=store.fetch())
        reply = await store.settle(retry(second, 2_000), fetch=store.fetch())
        assert reply.deliveries == ()
        await store.advance(1_000)
        assert await store.dequeue_ids() == [first.id]
        await store.advance(1_000)
        assert await store.dequeue_ids() == [second.id]


async def test_a_late_commit_waits_for_the_next_look_at_the_whole(postgres_server: Server, namespace: str) -> None:
    """Its number is older than the mark, and no count tells. The reply says when to look again."""
    now_ms = 0.0
    url = postgres_server.url
    async with opened(url, namespace, marks=Eager(lambda: now_ms)) as store, connected(url) as connection:
        await store.fill(300)
        transaction = connection.transaction()
        await transaction.start()
        await store.backend.bind(connection).enqueue((job("late"),))
        await store.enqueue(job("a"), job("b"))
        assert len(await store.dequeue_ids(count=300)) == 300
        assert await store.dequeue_ids(count=1) == ["a"]
        await transaction.commit()
        reply = await store.settle(fetch=store.fetch(count=2))
        assert [each.id for each in reply.deliveries] == ["b"]
        assert reply.next_due_in_ms is not None
        assert reply.next_due_in_ms <= WHOLE_MS
        now_ms += reply.next_due_in_ms
        assert await store.dequeue_ids(count=2) == ["late"]


async def test_a_fetch_that_is_taken_back_let_others_go_first(postgres_server: Server, namespace: str) -> None:
    """What it had locked is passed over, and there again when its transaction ends: C7 of a history allows for that."""
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.fill(3)
        await store.open_session()
        transaction = connection.transaction()
        await transaction.start()
        statement = this_release().functions.call("settle", namespace)
        wish = (None, 0, 0, "s", *Outcomes(()).arguments, ("q",), 1, "seed", 1 << 20, None, False)
        await connection.fetch(statement, *wish)
        assert await store.dequeue_ids(count=1) == ["q-0001"]
        await transaction.rollback()
        assert await store.dequeue_ids(count=2) == ["q-0000", "q-0002"]


class Watched(Marks):
    """Its clock stands still; it writes down what looks cost."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.whole: list[int] = []
        self.marked: list[int] = []

    def noted(self, queues: Any, found: dict[str, dict[str, Any]] | None) -> int | None:
        for mark in (found or {}).values():
            (self.whole if mark["f"] else self.marked).append(mark["p"])
        return super().noted(queues, found)


async def buffers(connection: asyncpg.Connection, schema: str, marks: str | None) -> int:
    """Pages that a fetch of one job touches, all of its statements together; the second time, when they are planned."""
    arguments = (None, 0, 0, "s", *Outcomes(()).arguments, ("q",), 1, "seed", 1 << 20, marks, False)
    text = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {this_release().functions.call('settle', schema)}"
    found = 0
    for _ in range(2):
        transaction = connection.transaction()
        await transaction.start()
        plan = json.loads(await connection.fetchval(text, *arguments))[0]["Plan"]
        found = int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
        await transaction.rollback()
    return found


async def test_dead_entries_are_not_walked_under_an_old_snapshot(postgres_server: Server, namespace: str) -> None:
    url, marks = postgres_server.url, Watched()
    async with (
        opened(url, namespace, marks=marks) as store,
        connected(url) as old,
        connected(url) as connection,
        old.transaction(isolation="repeatable_read"),
    ):
        await old.fetchval(f'select count(*) from "{namespace}".job')
        before: int | None = None
        outcomes: tuple[Any, ...] = ()
        for turn in range(24):
            await store.enqueue(*(job(f"{turn}-{number}") for number in range(PAGE_MAX)))
            if before is None:
                await store.open_session()
                before = await buffers(connection, namespace, None)
            reply = await store.settle(*outcomes, fetch=store.fetch(count=PAGE_MAX))
            assert len(reply.deliveries) == PAGE_MAX
            outcomes = tuple(ack(each) for each in reply.deliveries)
        await store.enqueue(job("one before"), job("last"))
        assert await store.dequeue_ids(count=1) == ["one before"]
        asked = marks.asked(store.fetch())
        assert asked is not None
        whole, marked = [await buffers(connection, namespace, each) for each in (None, asked)]
        assert await store.dequeue_ids(count=1) == ["last"]
    assert before is not None
    assert whole > 10 * before
    assert marked < 2 * before
    assert len(marks.whole) == 1
    assert marks.whole[0] > PAGES_DEAR
    assert max(marks.marked) < PAGES_DEAR
    assert len(marks.marked) > 5


async def test_a_cheap_queue_has_no_mark(postgres_server: Server, namespace: str) -> None:
    marks = Watched()
    async with opened(postgres_server.url, namespace, marks=marks) as store:
        await store.fill(PAGE_MAX)
        while await store.dequeue(count=50):
            pass
        assert marks.asked(store.fetch()) is None
    assert marks.whole == marks.marked == []
