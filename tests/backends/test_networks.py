"""Networks that lose replies, are slow or swallow all: every job is run once, and the worker heals by itself."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

import pytest

from psyqueue import Context, JobHandle
from psyqueue.backend import NewJob, Op
from psyqueue.errors import StoreUnavailable
from support.proxy import proxy_before
from support.store_at import place_on, store_at
from worker.rig import Rig, count_effects, effects_of, renewed_often, soon, started, until

PATIENCE = {
    "redis": {"timeout": 0.6, "connect_timeout": 0.6},
    "postgres": {"statement_timeout": 1.0, "connect_timeout": 1.0},
}
LATE_MS = {"redis": 1_200, "postgres": 2_000}
CALLS = {
    "redis": (b"FCALL", b"EVALSHA"),
    "postgres": (b"E\0\0\0\x09\0\0\0\0\0",),  # Execute, of the unnamed portal, all rows
}


@pytest.fixture(params=["redis", "postgres"])
def store(request) -> str:
    name: str = request.param
    return name


@pytest.fixture
def server(store, request):
    return request.getfixturevalue(f"{store}_server")


@pytest.fixture
async def proxy(server):
    async with proxy_before(server) as made:
        yield made


@pytest.fixture
async def rig(store, proxy, namespace, direct):
    """Its store is behind the proxy. It was made before: that may take longer than its patience."""
    async with started(Rig(store_at(place_on(proxy.url, namespace), **PATIENCE[store]))) as made:
        yield made
        proxy.is_hole, proxy.delay_ms, proxy.loses_reply = False, 0.0, lambda request: False


@pytest.fixture
async def direct(server, namespace):
    """The same store without a proxy."""
    async with started(Rig(store_at(place_on(server.url, namespace)))) as made:
        yield made


def counting(rig: Rig, starts: Counter[int]):
    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler(n: int) -> int:
        starts[n] += 1
        return n

    return handler


def every(nth: int, store: str):
    """One in so many requests that bring a command of ours; greetings get through."""
    numbers = itertools.count(1)
    return lambda request: any(call in request for call in CALLS[store]) and next(numbers) % nth == 0


async def enqueue_in_tens(handler, count: int) -> list[JobHandle[int]]:
    """One call after the other, so that many of them meet what is done to the network."""
    jobs = []
    for first in range(0, count, 10):
        jobs += await asyncio.gather(*[handler.enqueue(n) for n in range(first, first + 10)])
    return jobs


@pytest.mark.parametrize("nth", [2, 5])
async def test_no_lost_reply_makes_a_job_come_or_run_twice(nth, store, proxy, rig, direct, monkeypatch):
    count_effects(monkeypatch)
    starts: Counter[int] = Counter()
    handler = counting(rig, starts)
    worker = rig.worker(lease_ms=60_000)
    await rig.told.first("worker:started")
    proxy.loses_reply = every(nth, store)
    jobs = await enqueue_in_tens(handler, 100)
    # Which calls lose their reply is chance; a worker that has nothing to do looks again, and meets it then.
    await until(lambda: len(starts) == 100 and bool(rig.told.of("worker:error")), 60)
    proxy.loses_reply = lambda request: False
    assert await direct.ended(*jobs) == ["completed"] * 100
    assert starts == dict.fromkeys(range(100), 1)
    assert await effects_of(direct, jobs) == [1] * 100
    assert await direct.statuses("q") == {"completed": 100}, "no job came twice"
    assert proxy.cuts >= 20 // nth
    assert rig.told.of("worker:error"), "it said that it had trouble"
    assert worker.failure is None
    assert (await direct.store.check(None, 500))[0] == ()


async def test_replies_later_than_the_timeout_are_never_taken_for_others(store, proxy, rig, monkeypatch):
    count_effects(monkeypatch)
    starts: Counter[int] = Counter()
    handler = counting(rig, starts)
    rig.worker(lease_ms=60_000)
    await rig.told.first("worker:started")
    proxy.delay_ms = 100
    jobs = await enqueue_in_tens(handler, 30)
    proxy.delay_ms = LATE_MS[store]
    late = asyncio.ensure_future(handler.enqueue(30))
    await rig.told.first("worker:error")
    proxy.delay_ms = 0
    jobs.append(await soon(late))
    assert [await job.result(20) for job in jobs] == list(range(31))
    assert starts == dict.fromkeys(range(31), 1)
    assert await effects_of(rig, jobs) == [1] * 31


async def test_a_hole_in_the_network_is_noticed_and_told_and_healed_from(proxy, rig, monkeypatch):
    """Half-open connections: no reset, no byte. What ran meanwhile is settled when the network is back."""
    count_effects(monkeypatch)
    go_on, starts = asyncio.Event(), Counter[int]()

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler(n: int) -> int:
        starts[n] += 1
        await go_on.wait()
        return n

    worker = rig.worker(concurrency=5, lease_ms=60_000)
    jobs = [await handler.enqueue(n) for n in range(5)]
    await rig.told.first("job:started", count=5)
    proxy.is_hole = True
    go_on.set()
    failed = rig.told.of("worker:error")
    await until(lambda: len(rig.told.of("worker:error")) > len(failed) + 1)
    with pytest.raises(StoreUnavailable) as told:
        await soon(rig.store.enqueue(*an_enqueue()))
    assert told.value.outcome in ("unknown", "refused")
    assert worker.health()["store_call_age_ms"] > 0
    proxy.is_hole = False
    assert [await job.result(20) for job in jobs] == [0, 1, 2, 3, 4]
    assert await (await handler.enqueue(5)).result(20) == 5
    assert starts == dict.fromkeys(range(6), 1)
    assert await effects_of(rig, jobs) == [1] * 5


async def test_jobs_of_a_worker_behind_a_hole_go_to_others_and_its_late_outcome_counts_for_nothing(
    proxy, rig, direct, monkeypatch
):
    count_effects(monkeypatch)
    there, go_on = asyncio.Event(), asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def lost(ctx) -> str:
        there.set()
        await go_on.wait()
        return "late"

    @direct.q.handle("h", queue="q")
    async def taken_over(ctx: Context) -> int:
        return ctx.fence

    lease_ms = renewed_often(monkeypatch, 2_000)
    worker = rig.worker(lease_ms=lease_ms)
    job = await lost.enqueue()
    await soon(there.wait())
    proxy.is_hole = True
    direct.worker(name="w2", lease_ms=lease_ms)
    assert await direct.ended(job) == ["completed"]
    go_on.set()
    proxy.is_hole = False
    await until(lambda: len(rig.told.of("worker:started")) == 1 and worker.health()["held"] == 0, 30)
    view = await direct.view(job)
    assert (view.status, view.result, view.lost) == ("completed", 2, 1)
    assert await effects_of(direct, [job]) == [1]
    assert worker.failure is None


def an_enqueue():
    return Op("direct", 0, 1), (NewJob(id="direct", queue="later", name="h", payload=b"{}", digest=b"d"),)
