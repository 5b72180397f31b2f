"""What `drain` runs, in which order, and what becomes of errors."""

from __future__ import annotations

import asyncio
import threading

import pytest

from psyqueue import Cancel, Context, DeadLetter, JobDead, PsyQueue, Retry, Snooze
from psyqueue.backends import sqlite
from psyqueue.errors import InvalidOption, InvalidState, JobNotFound
from psyqueue.testing import StillRunning, TooManyRuns


@pytest.fixture
def q() -> PsyQueue:
    return PsyQueue().use(sqlite(path="/nowhere/at/all.db"))


async def test_nothing_runs_until_it_is_told(q):
    ran: list[int] = []
    q.handle("work", lambda: ran.append(1))
    async with q.testing() as t:
        await q.enqueue("work")
        for _ in range(20):
            await asyncio.sleep(0)
        assert ran == []
        assert await t.drain() == 1
        assert ran == [1]
        assert await t.drain() == 0


async def test_drain_runs_follow_ups_too_and_jobs_that_handlers_enqueue(q):
    @q.handle("parent")
    async def parent(ctx: Context) -> None:
        ctx.enqueue("child", {"number": 1})
        await q.enqueue("child", {"number": 2})

    @q.handle("child")
    async def child(ctx: Context, number: int) -> None:
        if number == 1:
            ctx.enqueue("child", {"number": 3})

    async with q.testing() as t:
        await parent.enqueue()
        assert await t.drain() == 4
        assert sorted(job.payload["number"] for job in t.enqueued("child", status="completed")) == [1, 2, 3]


async def test_jobs_run_in_the_order_in_which_they_became_pending_whatever_their_queue(q):
    order: list[int] = []
    for queue in ("a", "b", "c"):
        q.handle(queue, order.append)
    async with q.testing() as t:
        for number, queue in enumerate("cabcab"):
            await q.enqueue(queue, {"object": number})
        await t.drain()
    assert order == list(range(6))


async def test_priorities_count_within_a_queue(q):
    order: list[int] = []
    q.handle("work", order.append)
    async with q.testing() as t:
        for number in (1, 3, 2):
            await q.enqueue("work", {"object": number}, priority=number)
        await t.drain()
    assert order == [3, 2, 1]


async def test_payload_and_result_go_through_json(q):
    @q.handle("work")
    async def work(pair) -> tuple[int, int]:
        assert pair == [1, 2]
        return 3, 4

    async with q.testing() as t:
        job = await q.enqueue("work", {"pair": (1, 2)})
        await t.drain()
        assert t.job(job).result == [3, 4]


async def test_plain_handlers_run_in_a_thread(q):
    @q.handle("work")
    def work() -> int:
        return threading.get_ident()

    async with q.testing() as t:
        job = await q.enqueue("work")
        await t.drain()
        assert t.job(job).result != threading.get_ident()


async def test_middleware_is_around_the_runs(q):
    seen: list[str] = []

    async def watch(ctx, call_next):
        seen.append(ctx.job.name)
        await call_next()

    q.pipeline("process", watch)
    q.handle("work", lambda: None)
    async with q.testing() as t:
        await q.enqueue("work")
        await t.drain()
    assert seen == ["work"]


async def test_paused_queue_stays_as_it_is(q):
    q.handle("work", lambda: None)
    async with q.testing() as t:
        await q.enqueue("work")
        await q.pause("work")
        assert await t.drain() == 0
        await q.resume("work")
        assert await t.drain() == 1


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def failing(q):
    @q.handle("fail", backoff_base="1m")
    async def fail() -> None:
        raise ConnectionError("the mail server is down")

    q.handle("work", lambda: None)
    return q


async def test_error_of_a_handler_is_raised_itself_with_its_traceback_and_its_job(failing):
    async with failing.testing() as t:
        job = await failing.enqueue("fail")
        with pytest.raises(ConnectionError, match="the mail server is down") as caught:
            await t.drain()
        assert "async def fail" not in str(caught.value)
        assert any(entry.name == "fail" for entry in caught.traceback)
        (note,) = caught.value.__notes__
        assert note.startswith(f"raised by job {job.id}, 'fail' on 'fail', attempt 1")
        assert t.job(job).status == "scheduled"  # the queue has dealt with it all the same


async def test_what_is_pending_behind_an_error_runs_with_the_next_drain(failing):
    async with failing.testing() as t:
        await failing.enqueue("fail")
        work = await failing.enqueue("work")
        with pytest.raises(ConnectionError):
            await t.drain()
        assert t.job(work).status == "pending"
        assert await t.drain() == 1
        assert t.job(work).status == "completed"


async def test_errors_can_be_left_to_the_queue(failing):
    async with failing.testing() as t:
        await failing.enqueue("fail")
        assert await t.drain(raise_errors=False) == 1
        assert [(each.name, each.attempt, str(each.error)) for each in t.failures] == [
            ("fail", 1, "the mail server is down")
        ]


async def test_errors_can_be_left_to_the_queue_for_a_whole_test_and_be_raised_once(failing):
    async with failing.testing(raise_errors=False) as t:
        job = await failing.enqueue("fail")
        assert await t.advance("1h") == 4
        assert t.job(job).status == "dead"
        await failing.enqueue("fail")
        with pytest.raises(ConnectionError):
            await t.drain(raise_errors=True)


@pytest.mark.parametrize(
    ("verdict", "status"),
    [(Retry(), "scheduled"), (Snooze("1m"), "scheduled"), (Cancel("no"), "cancelled"), (DeadLetter("no"), "dead")],
    ids=["retry", "snooze", "cancel", "dead"],
)
async def test_verdicts_are_no_errors(q, verdict, status):
    @q.handle("work")
    async def work() -> None:
        raise verdict

    async with q.testing() as t:
        job = await work.enqueue()
        await t.drain()
        assert t.job(job).status == status
        assert t.failures == []


async def test_payload_that_does_not_fit_is_an_error(q):
    @q.handle("work")
    async def work(number: int) -> None: ...

    async with q.testing() as t:
        await q.enqueue("work", {"number": "one"})
        with pytest.raises(Exception, match="number"):
            await t.drain()


async def test_result_that_is_no_json_is_an_error(q):
    @q.handle("work")
    async def work():
        return object()

    async with q.testing() as t:
        job = await work.enqueue()
        with pytest.raises(JobDead, match="result"):
            await t.drain()
        assert t.job(job).status == "dead"
        assert [each.job_id for each in t.failures] == [job.id]


async def test_job_without_handler_is_put_off_as_a_worker_would(q):
    async with q.testing() as t:
        job = await q.enqueue("elsewhere")
        await t.drain()
        assert t.job(job).status == "scheduled"
        assert t.history.of(job).events == ["enqueued", "snoozed"]


# ── bounds ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_job_that_keeps_coming_back_is_named(q):
    @q.handle("again", queue="loop")
    async def again(ctx: Context) -> None:
        ctx.enqueue("again", {})

    q.handle("once", lambda: None)
    async with q.testing() as t:
        await q.enqueue("once")
        await again.enqueue()
        with pytest.raises(TooManyRuns, match="'again' on 'loop' keeps coming back, it ran 9 times") as caught:
            await t.drain(limit=10)
        assert (caught.value.name, caught.value.runs) == ("again", 9)
        assert t.job(caught.value.job_id).status == "completed"


async def test_limit_that_is_just_enough_is_no_error(q):
    q.handle("work", lambda: None)
    async with q.testing() as t:
        await q.enqueue_bulk([{"name": "work"}] * 5)
        assert await t.drain(limit=5) == 5


async def test_run_that_waits_for_something_real_is_stopped_and_named(q):
    stopped = asyncio.Event()

    @q.handle("hang", queue="work")
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with q.testing(patience="50ms") as t:
        job = await hang.enqueue()
        with pytest.raises(StillRunning, match=r"'hang' on 'work' .* has been running for 50 ms of real time"):
            await t.drain()
        assert stopped.is_set()
        assert t.job(job).status == "pending"  # handed back, with no attempt used
        assert t.job(job).attempt == 0


async def test_run_of_a_drain_that_was_cancelled_is_stopped_at_the_end(q):
    begun, ended = asyncio.Event(), asyncio.Event()

    @q.handle("hang")
    async def hang() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with q.testing() as t:
        await hang.enqueue()
        draining = asyncio.get_running_loop().create_task(t.drain())
        await begun.wait()
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
        assert not ended.is_set()
    assert ended.is_set()


async def test_handler_cannot_run_the_jobs_of_its_test(q):
    async with q.testing() as t:
        q.handle("work", t.drain)
        await q.enqueue("work", {"limit": 1, "raise_errors": None})
        with pytest.raises(InvalidState, match="a handler cannot run the jobs of its test"):
            await t.drain()


async def test_two_callers_of_drain_take_turns(q):
    running: list[int] = []
    most = 0

    @q.handle("work")
    async def work() -> None:
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        await asyncio.to_thread(lambda: None)
        running.pop()

    async with q.testing() as t:
        await q.enqueue_bulk([{"name": "work"}] * 4)
        assert sum(await asyncio.gather(t.drain(), t.drain())) == 4
    assert most == 1


async def test_unknown_job_is_named(q):
    async with q.testing() as t:
        with pytest.raises(JobNotFound, match="nothing-like-it"):
            t.job("nothing-like-it")


async def test_bad_limit_is_refused(q):
    async with q.testing() as t:
        with pytest.raises(InvalidOption, match="limit"):
            await t.drain(limit=0)


# ── transactions ──────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_enqueue_in_a_transaction_of_the_application_is_there_at_once(q):
    q.handle("work", lambda: None)
    async with q.testing() as t:
        job = await q.enqueue("work", conn=object())
        t.assert_enqueued("work", count=1)
        await t.drain()
        assert t.job(job).status == "completed"


async def test_transaction_of_a_handler_is_refused_as_on_every_store_without(q):
    @q.handle("work")
    async def work(ctx: Context) -> None:
        async with ctx.transaction():
            pass

    async with q.testing() as t:
        await work.enqueue()
        with pytest.raises(InvalidState, match="no transaction"):
            await t.drain()
