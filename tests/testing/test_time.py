"""Virtual time: what is due happens at its instant, in order, and days take no time at all."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from psyqueue import Context, HandlerTimeout, Kernel, LifecycleError, PsyQueue
from psyqueue.backends import memory
from psyqueue.errors import InvalidOption, InvalidState
from psyqueue.testing import StillRunning

NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture
def q() -> PsyQueue:
    return PsyQueue().use(memory())


def when(t, job) -> list[tuple[str, float]]:
    """What happened to a job, after how many seconds."""
    return [(each.what, each.after.total_seconds()) for each in t.history.of(job)]


async def test_retries_come_after_exactly_their_back_off(q):
    @q.handle("flaky", backoff_base="1m")
    async def flaky(ctx: Context) -> str:
        if ctx.attempt < 3:
            raise ConnectionError("not yet")
        return "done"

    async with q.testing(raise_errors=False) as t:
        job = await flaky.enqueue()
        assert await t.advance("59s") == 1
        assert await t.advance("1s") == 1
        assert await t.advance("1h") == 1
        assert when(t, job) == [
            ("enqueued", 0),
            ("started", 0),
            ("failed", 0),
            ("retry", 0),
            ("started", 60),
            ("failed", 60),
            ("retry", 60),
            ("started", 180),
            ("completed", 180),
        ]
        assert [error["message"] for error in t.job(job).errors] == ["not yet", "not yet"]


async def test_due_jobs_of_all_queues_run_in_the_order_of_their_times(q):
    order: list[str] = []
    for queue in ("a", "b"):
        q.handle(queue, order.append)
    async with q.testing() as t:
        await q.enqueue("a", {"object": "third"}, delay="3h")
        await q.enqueue("b", {"object": "second"}, delay="2h")
        await q.enqueue("a", {"object": "first"}, run_at=t.now + timedelta(hours=1))
        await q.enqueue("b", {"object": "never"}, delay="4h")
        began = t.now
        assert await t.advance("3.5h") == 3
        assert t.now - began == timedelta(hours=3.5)
    assert order == ["first", "second", "third"]


async def test_what_a_due_job_enqueues_with_a_delay_is_due_on_the_way(q):
    @q.handle("tick")
    async def tick(ctx: Context, left: int) -> None:
        if left:
            ctx.enqueue("tick", {"left": left - 1}, delay="1d")

    async with q.testing() as t:
        await tick.enqueue(10)
        assert await t.advance("3d") == 4
        started = [each.after.days for each in t.history if each.what == "started"]
        assert started == [0, 1, 2, 3]


async def test_job_expires_at_its_instant_also_where_nothing_runs(q):
    q.handle("work", lambda: None)
    async with q.testing(now=NEW_YEAR) as t:
        await q.pause("work")
        job = await q.enqueue("work", expires="10m")
        await t.advance("9m")
        assert t.job(job).status == "pending"
        await t.advance("1h")
        view = t.job(job)
        assert (view.status, view.reason) == ("dead", "expired")
        assert view.completed_at == NEW_YEAR + timedelta(minutes=10)
        assert when(t, job) == [("enqueued", 0), ("dead", 600)]
        assert t.history[-1].data == {"reason": "expired"}


async def test_pause_ends_and_rates_give_starts_as_time_goes_on(q):
    q.handle("work", lambda: None)
    async with q.testing(now=NEW_YEAR) as t:
        await q.limits("work", starts_per_minute=6)
        await q.pause("work", until=NEW_YEAR + timedelta(minutes=5))
        await q.enqueue_bulk([{"name": "work"}] * 3)
        assert await t.advance("1h") == 3
        assert [each.after.total_seconds() for each in t.history if each.what == "started"] == [300, 310, 320]


async def test_drain_leaves_time_alone(q):
    q.handle("work", lambda: None)
    async with q.testing(now=NEW_YEAR) as t:
        await q.enqueue("work")
        late = await q.enqueue("work", delay="1s")
        await t.drain()
        assert t.now == NEW_YEAR
        assert t.job(late).status == "scheduled"


async def test_test_begins_now_or_at_the_instant_it_is_given(q):
    async with q.testing() as t:
        assert abs(t.now - datetime.now(UTC)) < timedelta(minutes=1)
    async with q.testing(now=NEW_YEAR) as t:
        assert t.now == NEW_YEAR
        job = await q.enqueue("work")
        assert t.job(job).created_at == NEW_YEAR


async def test_deadline_counts_in_virtual_time(q):
    q.handle("work", lambda: None)
    async with q.testing() as t:
        job = await q.enqueue("work", delay="2h", deadline="1h")
        await t.advance("2h")
        assert (t.job(job).status, t.job(job).reason) == ("dead", "deadline")


async def test_error_on_the_way_stops_time_at_its_instant(q):
    @q.handle("fail")
    async def fail() -> None:
        raise ConnectionError

    async with q.testing(now=NEW_YEAR) as t:
        await fail.options(delay="1h").enqueue()
        with pytest.raises(ConnectionError):
            await t.advance("2h")
        assert t.now == NEW_YEAR + timedelta(hours=1)


# ── handlers that take their time ─────────────────────────────────────────────────────────────────────────────────────
async def test_sleep_of_a_handler_takes_virtual_time(q):
    @q.handle("nap")
    async def nap(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async with q.testing(now=NEW_YEAR) as t:
        job = await nap.enqueue(3600)
        assert await t.drain() == 1
        assert t.now == NEW_YEAR + timedelta(hours=1)
        assert when(t, job) == [("enqueued", 0), ("started", 0), ("completed", 3600)]


async def test_timeout_ends_a_handler_that_sleeps_past_it(q):
    @q.handle("slow", timeout="30s", max_retries=0)
    async def slow(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "in time"

    async with q.testing() as t:
        quick, late = await slow.enqueue(29.999), await slow.enqueue(31)
        with pytest.raises(HandlerTimeout, match="'slow' ran longer than its timeout of 30000 ms"):
            await t.advance("1m")
        assert t.job(quick).result == "in time"
        assert when(t, late)[1:] == [("started", 0), ("failed", 30), ("dead", 30)]


async def test_run_that_sleeps_for_longer_than_the_advance_goes_on_with_the_next(q):
    @q.handle("nap")
    async def nap() -> None:
        await asyncio.sleep(60)

    async with q.testing() as t:
        job = await nap.enqueue()
        await t.advance("20s")
        assert t.job(job).status == "active"
        await t.advance("39s")
        assert t.job(job).status == "active"
        await t.advance("1s")
        assert t.job(job).status == "completed"


async def test_other_jobs_run_while_one_sleeps(q):
    @q.handle("nap")
    async def nap(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async with q.testing() as t:
        await nap.enqueue(30)
        await nap.enqueue(10)
        await nap.options(delay="15s").enqueue(5)
        await t.advance("1m")
        ended = [(each.what, each.after.seconds) for each in t.history if each.what in ("started", "completed")]
        assert ended == [
            ("started", 0),
            ("started", 0),
            ("completed", 10),
            ("started", 15),
            ("completed", 20),
            ("completed", 30),
        ]


async def test_limits_inside_of_a_handler_count_in_virtual_time(q):
    @q.handle("work")
    async def work() -> str:
        try:
            async with asyncio.timeout(5):
                await asyncio.sleep(10)
        except TimeoutError:
            return "too slow"
        return "slept"

    async with q.testing() as t:
        job = await work.enqueue()
        await t.drain()
        assert t.job(job).result == "too slow"
        assert when(t, job)[-1] == ("completed", 5)


async def test_timer_that_was_cancelled_does_not_fire(q):
    fired: list[int] = []

    @q.handle("work")
    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(5, fired.append, 5).cancel()
        loop.call_later(6, fired.append, 6)
        await asyncio.sleep(60)

    async with q.testing() as t:
        await work.enqueue()
        await t.drain()
    assert fired == [6]


async def test_timer_that_is_cancelled_by_another_of_its_instant_does_not_fire(q):
    fired: list[str] = []

    @q.handle("work")
    async def work() -> None:
        loop = asyncio.get_running_loop()
        late: list[asyncio.TimerHandle] = []
        loop.call_later(5, lambda: late.pop().cancel())
        late.append(loop.call_later(5, fired.append, "late"))
        await asyncio.sleep(60)

    async with q.testing() as t:
        await work.enqueue()
        await t.drain()
    assert fired == []


async def test_several_sleeps_in_a_row_are_all_skipped(q):
    @q.handle("poll")
    async def poll() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(24):
            await asyncio.sleep(3600)
        return loop.time() - began

    async with q.testing() as t:
        job = await poll.enqueue()
        await t.drain()
        assert t.job(job).result == pytest.approx(86_400)


async def test_real_work_between_sleeps_takes_real_time_and_is_waited_for(q):
    @q.handle("work")
    async def work() -> str:
        await asyncio.sleep(60)
        await asyncio.to_thread(lambda: None)
        await asyncio.sleep(60)
        return "done"

    async with q.testing() as t:
        job = await work.enqueue()
        await t.drain()
        assert when(t, job)[-1] == ("completed", 120)


async def test_limit_around_real_work_does_not_fire_by_itself(q):
    """Only a handler that sleeps lets time go on: an answer that takes a while is not cut."""
    answered = asyncio.Event()

    @q.handle("work")
    async def work() -> str:
        async with asyncio.timeout(3600):
            await answered.wait()
        return "answered"

    async with q.testing() as t:
        job = await work.enqueue()
        asyncio.get_running_loop().call_later(0.02, answered.set)
        await t.advance("1d")
        assert t.job(job).result == "answered"
        assert when(t, job)[-1] == ("completed", 0)


async def test_sleeps_in_tasks_of_a_handler_are_not_guessed_at(q):
    @q.handle("crowd")
    async def crowd() -> None:
        await asyncio.gather(asyncio.sleep(60), asyncio.sleep(60))

    async with q.testing(patience="50ms") as t:
        await crowd.enqueue()
        with pytest.raises(StillRunning, match="Only what the handler itself awaits with"):
            await t.drain()


async def test_run_that_still_sleeps_at_the_end_is_stopped(q):
    ended: list[str] = []

    @q.handle("nap")
    async def nap() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with q.testing() as t:
        await nap.enqueue()
        await t.advance("1s")
    assert ended == ["cancelled"]


async def test_test_itself_lives_in_real_time(q):
    loop = asyncio.get_running_loop()
    async with q.testing() as t:
        before = loop.time()
        await t.advance("10d")
        assert loop.time() - before < 3600


async def test_what_a_handler_leaves_behind_lives_on_in_real_time(q):
    left: list[asyncio.Task[None]] = []
    woken = asyncio.Event()

    async def wait_then_nap() -> None:
        await woken.wait()
        await asyncio.sleep(0.01)

    @q.handle("leave")
    async def leave() -> None:
        left.append(asyncio.get_running_loop().create_task(wait_then_nap()))

    async with PsyQueue().testing():  # the loop has virtual time for another test still
        async with q.testing() as t:
            await leave.enqueue()
            await t.drain()
        woken.set()
        await asyncio.wait_for(left[0], 5)


async def test_services_of_plugins_sleep_in_virtual_time(q):
    class Ticker:
        name = "ticker"

        def init(self, kernel: Kernel) -> None:
            kernel.service(self.tick)

        async def tick(self) -> None:
            while True:
                await asyncio.sleep(3600)
                await q.enqueue("work")

    q.use(Ticker())
    q.handle("work", lambda: None)
    async with q.testing() as t:
        assert await t.drain() == 0
        assert await t.advance("1d") == 24
        started = [each.after.total_seconds() for each in t.history if each.what == "started"]
        assert started == [3600 * hour for hour in range(1, 25)]


# ── one job ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_process_next_follows_the_time_of_the_test_and_runs_no_other_job(q):
    @q.handle("nap", timeout="1h", max_retries=0)
    async def nap(seconds: float) -> None:
        await asyncio.sleep(seconds)

    q.handle("other", lambda: None)
    async with q.testing(now=NEW_YEAR) as t:
        quick, late = await nap.enqueue(1800), await nap.enqueue(9000)
        pending, due = await q.enqueue("other"), await q.enqueue("other", delay="1m")
        assert await q.process_next("nap")
        assert t.now == NEW_YEAR + timedelta(minutes=30)
        assert [t.job(each).status for each in (quick, late, pending, due)] == ["completed"] + ["pending"] * 3
        assert await q.process_next("nap")
        assert when(t, late)[1:] == [("started", 1800), ("failed", 5400), ("dead", 5400)]
        assert [type(each.error) for each in t.failures] == [HandlerTimeout]
        assert not await q.process_next("nap")
        assert t.now == NEW_YEAR + timedelta(minutes=90)


async def test_what_expires_while_one_job_sleeps_does_so_at_its_instant(q):
    @q.handle("nap")
    async def nap() -> None:
        await asyncio.sleep(60)

    async with q.testing() as t:
        await nap.enqueue()
        job = await q.enqueue("other", expires="10s")
        await q.process_next("nap")
        assert when(t, job) == [("enqueued", 0), ("dead", 10)]


async def test_process_next_inside_of_a_handler_is_a_part_of_its_run(q):
    @q.handle("outer")
    async def outer() -> str:
        return "ran one" if await q.process_next("inner") else "ran none"

    @q.handle("inner")
    async def inner() -> str:
        return "done"

    async with q.testing() as t:
        ours, theirs = await outer.enqueue(), await inner.enqueue()
        assert await q.process_next("outer")
        assert (t.job(ours).result, t.job(theirs).result) == ("ran one", "done")


async def test_process_next_that_is_cancelled_or_takes_too_long_hands_its_job_back(q):
    begun = asyncio.Event()

    @q.handle("stuck")
    async def stuck() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with q.testing(patience="200ms") as t:
        job = await stuck.enqueue()
        with pytest.raises(StillRunning, match="'stuck'"):
            await q.process_next("stuck")
        assert t.job(job).status == "pending"
    async with q.testing() as t:
        begun.clear()
        job = await stuck.enqueue()
        running = asyncio.create_task(q.process_next("stuck"))
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert t.job(job).status == "pending"


def test_thread_is_that_of_the_caller_whatever_slept_before_the_handler(q):
    """A run that sleeps in middleware goes on with the next `advance`: in that one's thread, not in the first one's."""

    async def nap(ctx, call_next):
        await asyncio.sleep(10)
        return await call_next()

    q.pipeline("process", nap)

    @q.handle("where")
    def where() -> int:
        return threading.get_ident()

    with q.sync.testing() as t, ThreadPoolExecutor(1) as other:
        job = q.sync.enqueue("where")
        t.advance("5s")
        there = other.submit(threading.get_ident).result(20)
        other.submit(t.advance, "5s").result(20)
        assert t.job(job).result == there
        job = q.sync.enqueue("where")
        assert q.sync.process_next("where")
        assert t.job(job).result == threading.get_ident()


# ── what virtual time cannot do ───────────────────────────────────────────────────────────────────────────────────────
async def test_worker_is_refused_in_virtual_time(q):
    q.handle("work", lambda: None)
    async with q.testing():
        with pytest.raises(LifecycleError, match=r'q\.testing\(clock="real"\)'):
            q.start_worker()


async def test_real_time_cannot_be_moved(q):
    async with q.testing(clock="real") as t:
        with pytest.raises(InvalidState, match="real time passes by itself"):
            await t.advance("1s")
    with pytest.raises(InvalidOption, match="the real one cannot be set"):
        q.testing(clock="real", now=NEW_YEAR)


@pytest.mark.parametrize("by", [-1, "soon", None])
async def test_bad_duration_is_refused(q, by):
    async with q.testing() as t:
        with pytest.raises(InvalidOption, match="by="):
            await t.advance(by)
