"""Jobs that the store counts to a worker's session and the worker knows nothing of: nobody else would ever end them.

A fetch of long ago arrives after its own repeat, or a server comes back without the acks that it took last.
"""

from __future__ import annotations

import asyncio

import pytest

from psyqueue.backend import Fetch, Op
from psyqueue.ids import new_token
from worker.rig import Rig, renewed_often, until


@pytest.fixture
def lease_ms(monkeypatch) -> int:
    """With each renewal the worker asks how many jobs its session holds."""
    return renewed_often(monkeypatch)


class Gated:
    """A handler of queue `q` whose runs wait for `go`."""

    def __init__(self, rig: Rig) -> None:
        self.runs: list[int] = []
        self.go = asyncio.Event()

        @rig.q.handle("h", queue="q", max_retries=0)
        async def handler(n: int) -> int:
            self.runs.append(n)
            await self.go.wait()
            return n

        self.handler = handler


async def take_behind_its_back(rig: Rig, count: int) -> None:
    """A call with the worker's session that the worker did not make."""
    (session,) = await rig.open_sessions()
    fetch = Fetch(queues=("q",), count=count, token_seed=new_token())
    reply = await rig.store.settle(Op("late", 1, 1), session, (), fetch)
    assert len(reply.deliveries) == count


async def test_jobs_that_a_call_of_long_ago_took_are_run(rig, lease_ms):
    gated = Gated(rig)
    rig.worker(concurrency=1, prefetch=0, lease_ms=lease_ms)
    first = await gated.handler.enqueue(0)
    await rig.told.first("job:started")
    sessions = await rig.open_sessions()
    others = await rig.q.enqueue_bulk([gated.handler.build(n) for n in (1, 2, 3)])
    await take_behind_its_back(rig, 2)
    gated.go.set()
    assert [await job.result(20) for job in (first, *others)] == [0, 1, 2, 3]
    assert sorted(gated.runs) == [0, 1, 2, 3]
    assert {(await rig.view(job)).attempt for job in others} == {1}
    assert not set(sessions) & set(await rig.open_sessions())


async def test_what_runs_is_ended_first_and_disturbed_by_nothing(rig, lease_ms):
    gated = Gated(rig)
    worker = rig.worker(concurrency=2, prefetch=0, lease_ms=lease_ms)
    jobs = await rig.q.enqueue_bulk([gated.handler.build(n) for n in (0, 1)])
    await rig.told.first("job:started", count=2)
    others = await rig.q.enqueue_bulk([gated.handler.build(n) for n in (2, 3)])
    await take_behind_its_back(rig, 1)
    (session,) = await rig.open_sessions()
    await until(lambda: worker._slots.is_in_doubt)
    # One of them ends by itself, and its place is free: the look for another job tells of the stray one.
    worker._slots.stop_run(next(run for run in worker._slots.running if run.delivery.id == jobs[0].id), "release")
    await until(lambda: worker._slots.unknown == 1)
    assert await rig.open_sessions() == [session]
    assert worker.health()["running"] == 1
    gated.go.set()
    assert [await job.result(20) for job in (*jobs, *others)] == [0, 1, 2, 3]
    assert gated.runs.count(1) == 1
    assert rig.told.of("job:lease-lost") == []


async def test_a_worker_that_stops_hands_them_back(rig):
    gated = Gated(rig)
    worker = rig.worker(concurrency=1, prefetch=0)
    await gated.handler.enqueue(0)
    await rig.told.first("job:started")
    job = await gated.handler.enqueue(1)
    await take_behind_its_back(rig, 1)
    gated.go.set()
    await worker.stop(grace=5)
    assert await rig.status(job) == "pending"
