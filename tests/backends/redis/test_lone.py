"""An enqueue of plain jobs, one or many: the short ways keep nothing from call to call that could be wrong by then."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from psyqueue.backend import Enqueued, Limits, NewJob, Op
from psyqueue.errors import QueueFull, StaleOp
from support.store_at import place_on, store_at


class Bench:
    def __init__(self, backend: Any, client: redis.Redis, base: str) -> None:
        self.backend, self.client, self.base = backend, client, base
        self._turn = 0

    def op(self) -> Op:
        self._turn += 1
        return Op("tests", 0, self._turn)

    async def enqueue(self, *jobs: NewJob) -> tuple[Enqueued, ...]:
        found: tuple[Enqueued, ...] = await self.backend.enqueue(self.op(), jobs)
        return found

    def commands(self) -> int:
        """How many the server ran so far, those of scripts and this one too."""
        stats: dict[str, Any] = self.client.info("commandstats")
        return sum(each["calls"] for each in stats.values())


@pytest.fixture
async def bench(each_redis, namespace) -> AsyncIterator[Bench]:
    backend = store_at(place_on(each_redis.url, f"{namespace}:")).adapter
    await backend.connect()
    with contextlib.closing(redis.Redis.from_url(each_redis.url)) as client:
        yield Bench(backend, client, f"{namespace}:{{{namespace}}}:")
    await backend.disconnect()


def job(job_id: str, queue: str = "q", name: str = "n") -> NewJob:
    return NewJob(id=job_id, queue=queue, name=name, payload=b"1", digest=b"d")


async def test_a_lone_enqueue_is_nine_commands_and_its_call(bench):
    await bench.enqueue(job("first"))
    await bench.enqueue(job("second"))
    before = bench.commands()
    await bench.enqueue(job("third"))
    assert bench.commands() - before <= 11, "with the count itself"


async def test_a_signal_that_was_taken_is_armed_by_the_next_lone_job(bench):
    signal = f"{bench.base}w:q"
    await bench.enqueue(job("a"))
    await bench.enqueue(job("b"))
    assert bench.client.lpop(signal, 9) == [b"1"], "one word is enough"
    await bench.enqueue(job("c"))
    assert bench.client.lpop(signal, 9) == [b"1"]
    await bench.enqueue(job("other", queue="other"))
    assert not bench.client.exists(signal)


async def test_a_lone_job_that_is_there_is_no_new_one_whether_somebody_waits_or_not(bench):
    await bench.enqueue(job("a"))
    assert await bench.enqueue(job("a")) == (Enqueued("a", False, "pending"),)
    bench.client.delete(f"{bench.base}w:q")
    assert await bench.enqueue(job("a")) == (Enqueued("a", False, "pending"),)
    assert bench.client.hget(f"{bench.base}c:q", "pending") == b"1"


async def test_a_lone_call_is_done_once(bench):
    op = bench.op()
    first = await bench.backend.enqueue(op, (job("a"),))
    assert await bench.backend.enqueue(op, (job("a"),)) == first == (Enqueued("a", True, "pending"),)
    assert bench.client.hget(f"{bench.base}c:q", "pending") == b"1"
    await bench.enqueue(job("b"))
    with pytest.raises(StaleOp):
        await bench.backend.enqueue(op, (job("a"),))


async def test_limits_put_between_two_lone_calls_hold(bench):
    """Whatever the first one read of limits is not there any more for the next one."""
    await bench.backend.put_limits(bench.op(), (Limits(queue="another", pending_max=9),))
    await bench.enqueue(job("a"))
    await bench.backend.put_limits(bench.op(), (Limits(queue="q", pending_max=1),))
    with pytest.raises(QueueFull):
        await bench.enqueue(job("b"))


@pytest.mark.parametrize("is_short", [True, False])
async def test_jobs_of_several_queues_and_names_in_one_call_keep_them(is_short, bench):
    """They come in runs that share a queue and a name."""
    places = [("q", "n"), ("q", "n"), ("q", "m"), ("p", "n"), ("p", "n"), ("q", "n")]
    jobs = [job(f"j{number}", *place) for number, place in enumerate(places)]
    if not is_short:
        await bench.enqueue(jobs[3])
    replies = await bench.enqueue(*jobs)
    assert [(each.job_id, each.created) for each in replies] == [
        (each.id, is_short or each.id != "j3") for each in jobs
    ]
    rows = [bench.client.hmget(f"{bench.base}j:{each.id}", "queue", "name") for each in jobs]
    assert [(queue.decode(), name.decode()) for queue, name in rows] == places
    assert [bench.client.llen(f"{bench.base}p:{queue}") for queue in "qp"] == [4, 2]
    assert await bench.backend.check(None, 500) == ((), None)


async def test_many_jobs_of_a_call_get_numbers_in_turn(bench):
    calls = (97, 5, 200, 2, 496, 3)  # over hundreds, from one and to one
    made = [await bench.enqueue(*[job(f"{call}-{at}") for at in range(count)]) for call, count in enumerate(calls)]
    ids = [each.job_id for replies in made for each in replies]
    entries = [f"{number}:{each}".encode() for number, each in enumerate(ids, 1)]
    assert bench.client.lrange(f"{bench.base}p:q", 0, -1) == entries
    assert bench.client.hget(f"{bench.base}j:3-0", "number") == b"303"
    assert (await bench.backend.check(None, 500))[0] == ()


async def test_one_id_twice_in_a_call_is_one_job(bench):
    replies = await bench.enqueue(job("a"), job("b"), job("a"))
    assert [(each.job_id, each.created) for each in replies] == [("a", True), ("b", True), ("a", False)]
    assert bench.client.llen(f"{bench.base}p:q") == 2
