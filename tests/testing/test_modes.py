"""Jobs that run as they are enqueued, and tests with a worker in real time."""

from __future__ import annotations

import asyncio

import pytest

from psyqueue import Context, PsyQueue
from psyqueue.backends import memory
from psyqueue.testing import NotIdle


@pytest.fixture
def q() -> PsyQueue:
    q = PsyQueue().use(memory())

    @q.handle("double")
    async def double(number: int) -> int:
        return 2 * number

    @q.handle("fail", max_retries=0)
    async def fail() -> None:
        raise ConnectionError("no")

    @q.handle("parent")
    async def parent(ctx: Context) -> None:
        ctx.enqueue("double", {"number": 1})
        await q.enqueue("double", {"number": 2})

    return q


# ── inline ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_inline_job_has_run_when_its_enqueue_returns(q):
    async with q.testing(mode="inline") as t:
        job = await q.enqueue("double", {"number": 4})
        assert t.job(job).result == 8
        handles = await q.enqueue_bulk([{"name": "double", "payload": {"number": n}} for n in (1, 2)])
        assert [t.job(each).result for each in handles] == [2, 4]


async def test_inline_payload_goes_through_the_store(q):
    seen: list[object] = []
    q.handle("keep", seen.append)
    async with q.testing(mode="inline"):
        given = {"pair": (1, 2)}
        await q.enqueue("keep", {"object": given})
    assert seen == [{"pair": [1, 2]}]


async def test_inline_runs_what_handlers_enqueue_when_they_have_returned(q):
    async with q.testing(mode="inline") as t:
        await q.enqueue("parent")
        assert t.history.events[:3] == ["enqueued", "started", "enqueued"]
        assert sorted(job.result for job in t.enqueued("double", status="completed")) == [2, 4]


async def test_inline_error_of_the_handler_comes_out_of_the_enqueue(q):
    async with q.testing(mode="inline") as t:
        with pytest.raises(ConnectionError):
            await q.enqueue("fail")
        assert t.enqueued("fail")[0].status == "dead"
    async with q.testing(mode="inline", raise_errors=False) as t:
        assert t.job(await q.enqueue("fail")).status == "dead"


async def test_inline_delays_are_waited_for(q):
    async with q.testing(mode="inline") as t:
        job = await q.enqueue("double", {"number": 1}, delay="1h")
        assert t.job(job).status == "scheduled"
        await t.advance("1h")
        assert t.job(job).status == "completed"


async def test_inline_enqueues_at_once_all_have_run_when_they_return(q):
    async with q.testing(mode="inline") as t:

        async def one(number: int):
            return t.job(await q.enqueue("double", {"number": number})).result

        assert await asyncio.gather(*map(one, range(5))) == [0, 2, 4, 6, 8]


async def test_inline_comes_before_middleware_of_the_application(q):
    """A job runs when all middleware has returned: what they do after the write is done."""
    seen: list[str] = []

    async def note(ctx, call_next):
        await call_next()
        seen.append("written")

    q.pipeline("enqueue", note, phase="guard")
    q.handle("look", lambda: seen.append("run"))
    async with q.testing(mode="inline"):
        await q.enqueue("look")
    assert seen == ["written", "run"]


async def test_mode_ends_with_its_test(q):
    async with q.testing(mode="inline"):
        pass
    async with q.testing() as t:
        job = await q.enqueue("double", {"number": 1})
        assert t.job(job).status == "pending"


# ── a worker in real time ─────────────────────────────────────────────────────────────────────────────────────────────
async def test_worker_runs_jobs_in_real_time(q):
    async with q.testing(clock="real") as t:
        q.start_worker()
        job = await q.enqueue("double", {"number": 4})
        assert await job.result(timeout="5s") == 8
        await q.enqueue("parent")
        await t.idle()
        assert [each.status for each in t.enqueued()] == ["completed"] * 4


async def test_worker_of_the_application_stops_with_its_lifespan(q):
    async with q.testing(clock="real"):
        async with q:
            worker = q.start_worker()
        assert not worker.is_running


async def test_worker_stops_with_the_test(q):
    async with q.testing(clock="real"):
        worker = q.start_worker()
    assert not worker.is_running


async def test_drain_runs_jobs_in_real_time_too(q):
    async with q.testing(clock="real") as t:
        await q.enqueue("parent")
        assert await t.drain() == 3


async def test_idle_gives_up_and_tells_what_happened(q):
    async with q.testing(clock="real") as t:
        await q.enqueue("double", {"number": 1})
        with pytest.raises(NotIdle, match=r"after 20 ms 1 jobs are pending[\s\S]*enqueued 'double'"):
            await t.idle("20ms")


async def test_idle_returns_at_once_where_there_is_nothing(q):
    async with q.testing() as t:
        await t.idle(0)
