"""Keys that are gone or foreign: what they held is given up, and nothing else waits for it.

A server that throws keys away (allow_eviction), somebody with redis-cli, a restore that was cut short.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis

from psyqueue.backend import Dependency, Fetch, Filter, NewJob, Op, Renewal, Session
from psyqueue.backends._redis import RedisBackend, RedisOptions
from psyqueue.ids import new_token

LEASE_MS = 30_000
Harm = Callable[[redis.Redis, str], Any]


def deleted(client: redis.Redis, key: str) -> None:
    assert client.delete(key) == 1


def foreign_hash(client: redis.Redis, key: str) -> None:
    deleted(client, key)
    client.hset(key, "foreign", "x")


def foreign_text(client: redis.Redis, key: str) -> None:
    deleted(client, key)
    client.set(key, "foreign")


HARMS = [deleted, foreign_hash, foreign_text]
each_harm = pytest.mark.parametrize("harm", HARMS, ids=[harm.__name__ for harm in HARMS])


class Store:
    """With two sessions, `s` and `other`."""

    def __init__(self, backend: RedisBackend, client: redis.Redis) -> None:
        self.backend, self.client, self.base = backend, client, backend.options.base
        self._turns = itertools.count(1)

    def op(self) -> Op:
        return Op("tests", 0, next(self._turns))

    async def enqueue(self, *jobs: NewJob) -> None:
        await self.backend.enqueue(self.op(), jobs)

    async def start(self, session: str = "s", count: int = 10) -> list[str]:
        fetch = Fetch(queues=("q",), count=count, token_seed=new_token())
        return [each.id for each in (await self.backend.settle(self.op(), session, (), fetch)).deliveries]

    async def renew(self, session: str) -> Renewal:
        keeper = self.backend.keeper()
        try:
            return await asyncio.to_thread(keeper.renew, session)
        finally:
            keeper.close()

    async def end_leases(self, *but: str) -> None:
        for _ in range(3):
            await self.backend.advance_clock(LEASE_MS // 2)
            for each in but:
                assert (await self.renew(each)).open

    def harm(self, how: Harm, key: str) -> None:
        how(self.client, f"{self.base}{key}")

    def keys(self, pattern: str) -> list[str]:
        found: list[Any] = self.client.keys(f"{self.base}{pattern}")
        return sorted(key.decode().removeprefix(self.base) for key in found)


def job(job_id: str, **fields: Any) -> NewJob:
    return NewJob(id=job_id, queue="q", name="work", payload=b"1", **fields)


@pytest.fixture
async def store(each_redis, namespace) -> AsyncIterator[Store]:
    backend = RedisBackend(RedisOptions(url=each_redis.url, key_prefix=f"{namespace}:", test_clock=True))
    await backend.connect()
    with contextlib.closing(redis.Redis.from_url(each_redis.url)) as client:
        made = Store(backend, client)
        for name in ("s", "other"):
            session = Session(id=name, worker=f"of {name}", queues=("q",), lease_ms=LEASE_MS)
            await backend.open_session(made.op(), session)
        yield made
    await backend.disconnect()


@each_harm
async def test_a_session_whose_record_is_broken_is_lost_and_its_jobs_come_back(store, harm):
    await store.enqueue(job("a"))
    assert await store.start() == ["a"]
    store.harm(harm, "S:s")
    infos, _ = await store.backend.sessions(None, 10)
    assert [info.session.id for info in infos] == ["other"]
    assert not (await store.renew("s")).open, "its worker opens another one"
    assert (await store.backend.reap(10)).ids == ("a",)
    assert await store.start("other") == ["a"]
    (view,) = await store.backend.get(("a",))
    assert view is not None
    assert (view.attempt, view.lost) == (2, 1)
    assert json.loads(view.errors[0])["type"] == "WorkerLost"
    assert store.keys("closing") == []


@each_harm
async def test_a_session_whose_record_is_broken_keeps_no_other_from_being_reaped(store, harm):
    await store.enqueue(job("a"), job("b"))
    assert (await store.start("s", 1), await store.start("other", 1)) == (["a"], ["b"])
    store.harm(harm, "S:s")
    await store.end_leases()
    assert sorted((await store.backend.reap(10)).ids) == ["a", "b"]


@each_harm
async def test_a_session_whose_record_is_broken_gets_no_lease_of_grace(store, harm):
    await store.enqueue(job("a"))
    assert await store.start() == ["a"]
    store.harm(harm, "S:s")
    await store.backend.reap(1)
    await store.backend.advance_clock(61_000)
    await store.backend.reap(1)
    assert (await store.renew("other")).open
    assert (await store.backend.reap(10)).ids == ("a",)


@each_harm
async def test_a_session_whose_record_is_broken_can_be_closed(store, harm):
    await store.enqueue(job("a"))
    assert await store.start() == ["a"]
    store.harm(harm, "S:s")
    assert (await store.backend.close_session(store.op(), "s")).ids == ("a",)
    assert await store.start("other") == ["a"]
    assert (await store.backend.check(None, 500))[0] == ()


@pytest.mark.parametrize("end", ["reap", "close"])
@each_harm
async def test_a_running_job_whose_row_is_broken_goes_with_its_session(store, harm, end):
    await store.enqueue(job("a"), job("b"))
    assert await store.start() == ["a", "b"]
    store.harm(harm, "j:a")
    if end == "close":
        assert (await store.backend.close_session(store.op(), "s")).ids == ("b",)
    else:
        await store.end_leases("other")
        assert (await store.backend.reap(10)).ids == ("b",)
    assert store.keys("closing") == store.keys("a:*") == []
    assert await store.start("other") == ["b"]


@pytest.mark.parametrize("fields", [{"delay_ms": 10}, {"expires_in_ms": 10}], ids=["due", "expired"])
@each_harm
async def test_a_job_whose_row_is_broken_keeps_no_other_from_its_time(store, harm, fields):
    await store.enqueue(job("a", **fields), job("b", **fields))
    store.harm(harm, "j:a")
    await store.backend.advance_clock(10)
    assert (await store.backend.promote(("q",), 10)).ids == ("b",)
    assert store.keys("d:*") == store.keys("x:*") == []


@each_harm
async def test_a_child_whose_row_is_broken_keeps_no_other_from_starting(store, harm):
    await store.enqueue(job("parent", expires_in_ms=10))
    on_dead = (Dependency("parent", on=("dead",)),)
    await store.enqueue(job("a", needs=on_dead), job("b", needs=on_dead))
    store.harm(harm, "j:a")
    await store.backend.advance_clock(10)
    await store.backend.promote(("q",), 10)
    assert await store.start() == ["b"]


@each_harm
async def test_an_ended_job_whose_row_is_broken_is_pruned(store, harm):
    await store.enqueue(job("a", expires_in_ms=10), job("b", expires_in_ms=10))
    await store.backend.advance_clock(10)
    await store.backend.promote(("q",), 10)
    store.harm(harm, "j:a")
    await store.backend.advance_clock(100 * 86_400_000)
    assert (await store.backend.prune(10)).ids == ("a", "b")
    assert store.keys("D:*") == store.keys("j:*") == []


@pytest.mark.parametrize("text", ["", "foreign", "7", "7 enqueue", "x enqueue 5 \x90"])
async def test_a_memory_of_calls_that_is_no_memory_is_none(store, text):
    await store.enqueue(job("a"))
    store.client.set(f"{store.base}o:tests:0", text)
    await store.enqueue(job("b"))
    assert await store.start() == ["a", "b"]


async def test_foreign_entries_of_a_list_are_passed_over_by_whoever_looks(store):
    await store.enqueue(job("a"), job("in lane", lane="x"), job("b"))
    for key in ("p:q", "pl:1:qx"):
        store.client.lpush(f"{store.base}{key}", "foreign", "", "7:", "7:nobody")
        store.client.rpush(f"{store.base}{key}", "foreign")
    found, cursor = [], None
    while True:
        page = await store.backend.list_jobs(Filter(), cursor, 1)
        found += [view.job.id for view in page.jobs]
        cursor = page.cursor
        if cursor is None:
            break
    assert found == ["a", "b", "in lane"]
    (info,), _ = await store.backend.queues("", None, 10)
    assert info.oldest_pending_at_ms is not None
    assert (await store.backend.check(None, 500))[0] == ()
    assert [moved.job.id for moved in (await store.backend.export_part("jobs", None, 100)).items] == [
        "a",
        "b",
        "in lane",
    ]


async def test_foreign_counts_of_a_queue_are_no_counts(store):
    await store.enqueue(job("a"))
    store.client.hset(f"{store.base}c:q", "foreign", "x")
    (info,), _ = await store.backend.queues("", None, 10)
    assert info.counts["pending"] == 1


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("p:q", "queue q: 3 pending are counted, 1 are there"),
        ("z:q", "queue q: 3 pending are counted, 2 are there"),
        ("meta", "its number is beyond the last one"),
        ("S:s", "session s: its record is broken"),
    ],
)
async def test_what_is_missing_is_told(store, key, says):
    await store.enqueue(job("a"), job("b"), job("urgent", priority=1))
    assert (await store.backend.check(None, 500))[0] == ()
    store.harm(deleted, key)
    words, _ = await store.backend.check(None, 500)
    assert any(says in each for each in words), words
