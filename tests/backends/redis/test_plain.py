"""The short ways of plain jobs, by entry, body and ticket alone: what makes a job another one is always seen."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from psyqueue.backend import Ack, Change, Delivery, Fetch, Filter, NewJob, Op, Session, SettleReply
from psyqueue.ids import new_token
from support.store_at import place_on, store_at
from worker.rig import until


class Bench:
    """A session on a store, and its keys."""

    def __init__(self, backend: Any, client: redis.Redis, base: str) -> None:
        self.backend, self.client, self.base = backend, client, base
        self._turn = 0

    def op(self) -> Op:
        self._turn += 1
        return Op("tests", 0, self._turn)

    async def enqueue(self, *ids: str) -> None:
        jobs = [NewJob(id=each, queue="q", name="n", payload=b"1", digest=b"d") for each in ids]
        await self.backend.enqueue(self.op(), jobs)

    async def amend(self, kind: Any, *ids: str) -> None:
        await self.backend.amend(self.op(), Filter(ids=ids), Change(kind=kind), None, 10)

    async def settle(self, count: int, *acked: Delivery) -> SettleReply:
        acks = [Ack(job_id=each.id, completion_token=each.completion_token) for each in acked]
        fetch = Fetch(queues=("q",), count=count, token_seed=new_token())
        reply: SettleReply = await self.backend.settle(self.op(), "s", acks, fetch)
        return reply

    async def start(self, count: int) -> list[Delivery]:
        return list((await self.settle(count)).deliveries)

    def rows_read(self) -> int:
        stats: dict[str, Any] = self.client.info("commandstats")
        return int(stats.get("cmdstat_hgetall", {"calls": 0})["calls"])

    def delete(self, key: str) -> None:
        assert self.client.delete(f"{self.base}{key}") == 1


@pytest.fixture
async def bench(each_redis, namespace) -> AsyncIterator[Bench]:
    backend = store_at(place_on(each_redis.url, f"{namespace}:")).adapter
    await backend.connect()
    with contextlib.closing(redis.Redis.from_url(each_redis.url)) as client:
        found = Bench(backend, client, f"{namespace}:{{{namespace}}}:")
        await backend.open_session(found.op(), Session(id="s", worker="w", queues=("q",), lease_ms=30_000))
        yield found
    await backend.disconnect()


async def test_an_id_that_is_used_again_is_not_started_by_the_entry_of_its_forerunner(bench):
    await bench.enqueue("keeps-the-list", "again")
    await bench.amend("cancel", "again")
    await bench.amend("delete", "again")
    await bench.enqueue("again")
    assert [each.id for each in await bench.start(10)] == ["keeps-the-list", "again"]
    assert await bench.start(10) == []


@pytest.mark.parametrize("kind", ["cancel", "hold"])
async def test_what_was_amended_is_not_started_by_its_entry(kind, bench):
    await bench.enqueue("a", "b", "c")
    await bench.amend(kind, "b")
    assert [each.id for each in await bench.start(10)] == ["a", "c"]


@pytest.mark.parametrize("is_running", [False, True], ids=["before its start", "while it runs"])
async def test_who_waits_for_a_plain_job_is_told(is_running, bench):
    await bench.enqueue("a")
    started = await bench.start(1) if is_running else []
    waiting = asyncio.create_task(bench.backend.wait([], ["a"], 20_000))
    await until(lambda: bench.client.hexists(f"{bench.base}j:a", "watched"))
    started = started or await bench.start(1)
    assert (await bench.settle(0, *started)).settled[0].verdict == "ok"
    assert await waiting is True
    assert not bench.client.hexists(f"{bench.base}j:a", "watched")  # was read, and its waiter told


async def test_an_ack_of_a_job_whose_row_is_gone_is_lost_and_its_neighbours_are_not(bench):
    await bench.enqueue("a", "b", "c")
    started = await bench.start(3)
    bench.delete("j:b")
    settled = (await bench.settle(0, *started)).settled
    assert [(each.verdict, each.status) for each in settled] == [
        ("ok", "completed"),
        ("lost", None),
        ("ok", "completed"),
    ]
    assert bench.client.keys(f"{bench.base}j:b") == []
    assert bench.client.keys(f"{bench.base}a:*") == []


async def test_an_entry_whose_row_is_gone_starts_nothing(bench):
    await bench.enqueue("a", "b", "c")
    bench.delete("j:b")
    assert [each.id for each in await bench.start(3)] == ["a", "c"]
    assert bench.client.keys(f"{bench.base}j:b") == []


async def test_one_ack_twice_in_a_call_ends_the_job_once(bench):
    await bench.enqueue("a")
    started = await bench.start(1)
    settled = (await bench.settle(0, *started, *started)).settled
    assert [each.verdict for each in settled] == ["ok", "already"]
    assert (await bench.backend.queues("q", None, 10))[0][0].counts["completed"] == 1


@pytest.mark.parametrize("results", [(b"null", b"1"), (b"1", b"null"), (b"1", b"2")])
async def test_of_two_acks_in_a_call_the_first_one_counts(results, bench):
    await bench.enqueue("a", "b")
    (started, other) = await bench.start(2)
    acks = [Ack(job_id="a", completion_token=started.completion_token, result=each) for each in results]
    acks.append(Ack(job_id="b", completion_token=other.completion_token))
    settled = (await bench.backend.settle(bench.op(), "s", acks)).settled
    assert [each.verdict for each in settled] == ["ok", "already", "ok"]
    first = None if results[0] == b"null" else results[0]
    assert bench.client.get(f"{bench.base}r:a") == first
    assert bench.client.hget(f"{bench.base}j:a", "special") == (None if first is None else b"r")
    assert bench.client.zcard(f"{bench.base}e:q") == 2
    assert await bench.backend.check(None, 500) == ((), None)


async def test_a_repeated_call_gets_what_the_session_holds_in_the_order_of_the_first_reply(bench):
    await bench.enqueue("a", "b", "c", "d")
    await bench.amend("priority", "c")
    await bench.backend.amend(bench.op(), Filter(ids=("d",)), Change(kind="priority", priority=7), None, 10)
    op, fetch = bench.op(), Fetch(queues=("q",), count=9, token_seed=new_token())
    first = await bench.backend.settle(op, "s", (), fetch)
    assert [(each.id, each.priority) for each in first.deliveries] == [("d", 7), ("a", 0), ("b", 0), ("c", 0)]
    again = await bench.backend.settle(op, "s", (), fetch)
    assert again.deliveries == first.deliveries
    bench.delete("j:a")
    again = await bench.backend.settle(op, "s", (), fetch)
    assert again.deliveries == (first.deliveries[0], *first.deliveries[2:])


async def test_the_bytes_of_a_fetch_are_those_of_payload_and_cold_on_the_short_way_too(bench):
    """Bodies are a third longer than what is counted of them."""
    jobs = [NewJob(id=f"job-{at}", queue="q", name="n", payload=b"1" * 100, cold=b"", digest=b"d") for at in range(20)]
    await bench.backend.enqueue(bench.op(), jobs)

    async def fetched(bytes_max: int) -> int:
        fetch = Fetch(queues=("q",), count=20, token_seed=new_token(), bytes_max=bytes_max)
        reply: SettleReply = await bench.backend.settle(bench.op(), "s", (), fetch)
        return len(reply.deliveries)

    looks = bench.rows_read()
    assert [await fetched(bytes_max) for bytes_max in (1_000, 599, 1, 10_000)] == [10, 5, 1, 4]
    assert bench.rows_read() == looks


async def test_a_body_without_its_instant_is_started_all_the_same(bench):
    await bench.enqueue("a")
    bench.client.setrange(f"{bench.base}b:a", len("f1 "), b"\xff" * 13)
    assert [(each.id, each.payload, each.created_at_ms) for each in await bench.start(1)] == [("a", b"1", 0)]


async def test_many_tickets_are_not_looked_for_one_by_one(bench):
    ids = [f"job-{number:03}" for number in range(100)]
    await bench.enqueue(*ids)
    started = await bench.start(100)
    (key,) = bench.client.keys(f"{bench.base}a:*")
    assert bench.client.object("encoding", key) == b"hashtable"
    assert (await bench.backend.check(None, 500))[0] == ()
    looks = bench.rows_read()
    settled = (await bench.settle(0, *started)).settled
    assert [(each.job_id, each.verdict) for each in settled] == [(each, "ok") for each in ids]
    assert bench.rows_read() == looks  # all by the short way
    assert bench.client.zcard(f"{bench.base}e:q") == 100
    assert bench.client.keys(f"{bench.base}a:*") == []
