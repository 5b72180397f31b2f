"""The end of a worker: asked for, asked for again, cut short. Nothing that it held is lost, and it ends."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest

from psyqueue.errors import InvalidOption, StoreBusy, StoreFull, StoreUnavailable
from worker import process_handlers as elsewhere
from worker.rig import (
    LIMIT_S,
    Rig,
    answers_after,
    fails,
    lease_threads,
    shortened,
    soon,
    tasks_of_workers,
    turns,
    until,
    waits_for,
)

DEATHS = [
    StoreUnavailable("cut"),
    StoreUnavailable("no", "refused"),
    StoreBusy("locked"),
    StoreFull("disk full"),
]


async def running(rig: Rig, *jobs) -> None:
    for job in jobs:
        await rig.told.first("job:started", job.id)


async def nothing_is_left_of(rig: Rig) -> None:
    """No session, no active job, no lease thread, no task of a worker."""
    assert await rig.open_sessions() == []
    assert (await rig.statuses())["active"] == 0
    await until(lambda: lease_threads() == [])
    assert tasks_of_workers() == []


# ── drain ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_stop_hands_back_what_was_not_started_and_lets_running_handlers_finish(rig):
    go_on = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        await go_on.wait()
        return n

    jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(6)])
    worker = rig.worker(concurrency=2, prefetch=2)
    await running(rig, *jobs[:2])
    await until(lambda: worker.health()["held"] == 4)
    stopping = asyncio.create_task(worker.stop(grace="1h"))
    while (await rig.statuses())["pending"] < 4:
        await soon(rig.store.wait(("q",), (), 50))
    assert not stopping.done()
    views = [await rig.view(job) for job in jobs[2:]]
    assert [(view.status, view.attempt) for view in views] == [("pending", 0)] * 4
    assert worker.health()["stopping"]
    go_on.set()
    await soon(stopping)
    assert [await rig.status(job) for job in jobs] == ["completed"] * 2 + ["pending"] * 4
    assert [event["worker"] for event in rig.told.of("worker:stopped")] == ["w1"]
    await nothing_is_left_of(rig)


async def test_what_was_handed_back_keeps_its_place_in_line(rig):
    go_on, order = asyncio.Event(), []

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        await go_on.wait()
        order.append(n)

    jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(10)])
    worker = rig.worker(concurrency=1, prefetch=5)
    await running(rig, jobs[0])
    stopping = asyncio.create_task(worker.stop(grace="1h"))
    await turns(10)
    go_on.set()
    await soon(stopping)
    rig.worker(concurrency=1, name="w2")
    assert await rig.ended(*jobs) == ["completed"] * 10
    assert order == list(range(10))


async def test_after_its_grace_a_running_handler_is_cancelled_and_its_job_goes_back_untouched(rig):
    seen = []

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler(ctx):
        try:
            await asyncio.Event().wait()
        finally:
            seen.append((ctx.cancelled, ctx.lease_lost))

    worker = rig.worker()
    job = await handler.enqueue()
    await running(rig, job)
    await soon(worker.stop(grace="20ms"))
    view = await rig.view(job)
    assert (view.status, view.attempt, view.errors) == ("pending", 0, ())
    assert seen == [(True, False)]
    assert rig.told.types(job.id)[-1] == "job:requeued"
    await nothing_is_left_of(rig)


async def test_thread_is_told_and_left_behind_when_the_grace_is_over(rig, blocker):
    seen = []

    @rig.q.handle("h", queue="q")
    def handler(ctx):
        blocker.block()
        seen.append(ctx.cancelled)

    worker = rig.worker()
    job = await handler.enqueue()
    assert await asyncio.to_thread(blocker.began.wait, LIMIT_S)
    await soon(worker.stop(grace=0))
    assert (await rig.view(job)).status == "pending"
    blocker.open()
    await until(lambda: seen == [True])
    assert (await rig.view(job)).status == "pending", "what it says now no longer counts"


async def test_children_are_dead_when_the_worker_is(rig, tmp_path):
    from support.waiting import is_process_alive, wait_until

    handler = rig.q.handle("h", elsewhere.hang, queue="q", mode="process")
    idle = rig.q.handle("idle", elsewhere.pid, queue="q", mode="process")
    worker = rig.worker(concurrency=2)
    path = tmp_path / "pids"
    busy = await handler.enqueue(str(path))
    idle_pid = await (await idle.enqueue()).result(20)
    assert await asyncio.to_thread(wait_until, path.exists, limit_s=LIMIT_S)
    await soon(worker.stop(grace=0))
    assert not is_process_alive(int(path.read_text().split()[0]))
    assert not is_process_alive(idle_pid)
    assert await asyncio.to_thread(wait_until, lambda: not is_process_alive(int(path.read_text().split()[1])))
    assert await rig.status(busy) == "pending"


async def test_handler_that_ignores_its_end_does_not_keep_the_worker(rig, deaf, monkeypatch):
    @rig.q.handle("h", queue="q")
    async def handler():
        await deaf.ignore_cancels()

    with shortened(monkeypatch, ABANDON_MS=100):
        worker = rig.worker()
        job = await handler.enqueue()
        await running(rig, job)
        await soon(worker.stop(grace=0))
    assert await rig.status(job) == "pending"
    assert await rig.open_sessions() == []


async def test_second_stop_can_only_shorten_the_grace(rig):
    @rig.q.handle("h", queue="q")
    async def handler():
        await asyncio.Event().wait()

    worker = rig.worker()
    job = await handler.enqueue()
    await running(rig, job)
    first = asyncio.create_task(worker.stop(grace="1h"))
    await turns(5)
    assert not first.done()
    await soon(worker.stop(grace=0))
    await soon(first)
    await soon(worker.stop(grace="1h"))
    assert await rig.status(job) == "pending"


@pytest.mark.parametrize("grace", ["20ms", 0.02, timedelta(milliseconds=20)])
async def test_grace_is_a_duration_like_all_others(rig, grace):
    @rig.q.handle("h", queue="q")
    async def handler():
        await asyncio.Event().wait()

    worker = rig.worker()
    job = await handler.enqueue()
    await running(rig, job)
    await soon(worker.stop(grace=grace))
    assert await rig.status(job) == "pending"


@pytest.mark.parametrize("grace", ["soon", -1, True, float("nan")])
async def test_grace_that_is_no_duration_is_refused_before_anything_stops(rig, grace):
    @rig.q.handle("h", queue="q")
    async def handler():
        return "done"

    worker = rig.worker()
    with pytest.raises(InvalidOption, match="option grace="):
        await worker.stop(grace=grace)
    assert await soon((await handler.enqueue()).result()) == "done"


async def test_idle_worker_stops_at_once_whatever_its_grace(rig):
    worker = rig.worker()
    await rig.told.first("worker:started")
    await soon(worker.stop(grace="1h"))
    assert not worker.is_running
    assert worker.failure is None
    await soon(worker.wait())
    await nothing_is_left_of(rig)


async def test_worker_that_was_stopped_before_its_first_step_is_gone(rig):
    worker = rig.worker()
    await soon(worker.stop(grace="1h"))
    assert not worker.is_running
    await nothing_is_left_of(rig)


async def test_jobs_that_arrive_while_it_stops_go_back_unstarted(rig):
    """The fetch was on its way when the stop came."""
    gate, done = asyncio.Event(), asyncio.Event()
    runs = []

    @rig.q.handle("h", queue="q")
    async def handler():
        runs.append(1)

    worker = rig.worker()
    await until(lambda: worker._is_resting)
    rig.faults.plans["settle"] = [answers_after(gate, done)]
    job = await handler.enqueue()
    await soon(done.wait())
    assert await rig.status(job) == "active"
    stopping = asyncio.create_task(worker.stop(grace="1h"))
    await turns(5)
    gate.set()
    await soon(stopping)
    view = await rig.view(job)
    assert (view.status, view.attempt, runs) == ("pending", 0, [])


async def test_handler_may_stop_its_own_worker(rig, monkeypatch):
    @rig.q.handle("h", queue="q")
    async def handler():
        await worker.stop(grace="50ms")

    with shortened(monkeypatch, ABANDON_MS=100):
        worker = rig.worker()
        job = await handler.enqueue()
        await soon(worker.wait())
    assert await rig.status(job) == "pending"


async def test_stopped_queue_stops_its_workers_first(built):
    go_on = asyncio.Event()

    @built.q.handle("h", queue="q")
    async def handler():
        await go_on.wait()
        # The queue is still usable while its workers drain.
        await built.q.enqueue("later", queue="other")

    await built.q.start()
    worker = built.q.start_worker()
    job = await handler.enqueue()
    await running(built, job)
    stopping = asyncio.create_task(built.q.stop())
    await turns(10)
    go_on.set()
    await soon(stopping)
    assert not worker.is_running
    assert len(built.told.of("job:completed", job.id)) == 1


async def test_stop_of_the_workers_that_nobody_waited_for_keeps_them_for_the_stop_of_the_queue(built):
    """Else the store would be closed under a handler that still runs, and only the lease gave its job back."""
    never = asyncio.Event()

    @built.q.handle("h", queue="q")
    async def handler():
        await never.wait()

    await built.q.start()
    worker = built.q.start_worker()
    job = await handler.enqueue()
    await running(built, job)
    impatient = asyncio.create_task(built.q.stop_workers())
    await turns(3)
    impatient.cancel()
    await asyncio.wait({impatient})
    assert worker.is_running
    await soon(built.q.stop(grace=0))
    assert not worker.is_running
    assert len(built.told.of("job:requeued", job.id)) == 1


# ── the store is away ─────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("error", DEATHS, ids=["unknown", "refused", "busy", "full"])
async def test_stop_ends_although_the_store_is_away(rig, monkeypatch, error):
    """What it could not say is given back by its lease."""
    go_on = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler():
        await go_on.wait()
        return "never heard"

    with shortened(monkeypatch, ABANDON_MS=100, LAST_CALLS_MS=100, CLOSE_MS=100):
        worker = rig.worker()
        job = await handler.enqueue()
        await running(rig, job)
        await until(lambda: worker._is_resting)
        for verb in ("settle", "close_session"):
            rig.faults.always[verb] = fails(error)
        go_on.set()
        await soon(worker.stop(grace="50ms"))
    assert not worker.is_running
    assert await rig.status(job) == "active"
    assert len(await rig.open_sessions()) == 1
    await until(lambda: lease_threads() == [])
    rig.faults.always.clear()


async def test_stop_ends_although_the_store_never_answers(rig, monkeypatch):
    """Half-open connections: no error, no reply."""
    gate, go_on = asyncio.Event(), asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler():
        await go_on.wait()

    with shortened(monkeypatch, ABANDON_MS=100, LAST_CALLS_MS=100, CLOSE_MS=100):
        worker = rig.worker()
        job = await handler.enqueue()
        await running(rig, job)
        await until(lambda: worker._is_resting)
        for verb in ("settle", "close_session", "wait"):
            rig.faults.always[verb] = waits_for(gate)
        go_on.set()
        await soon(worker.stop(grace="50ms"))
    assert not worker.is_running
    gate.set()
    rig.faults.always.clear()


async def test_worker_waits_for_its_store_as_long_as_its_grace_lasts(rig):
    go_on = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler():
        await go_on.wait()
        return "heard"

    worker = rig.worker()
    job = await handler.enqueue()
    await running(rig, job)
    await until(lambda: worker._is_resting)
    rig.faults.plans["settle"] = [fails(StoreUnavailable("cut"))] * 5
    go_on.set()
    await soon(worker.stop(grace="1h"))
    assert (await rig.view(job)).result == "heard"


# ── cut short ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_stop_that_is_cancelled_lets_the_worker_end_by_itself(rig, times):
    cleaned = []

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(n)

    jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(32)])
    worker = rig.worker(concurrency=8, prefetch=24)
    await running(rig, *jobs[:8])
    await until(lambda: worker.health()["held"] == 32)
    stopping = [asyncio.create_task(worker.stop(grace="50ms")) for _ in range(times)]
    await turns(3)
    for task in stopping:
        task.cancel()
    await soon(asyncio.wait(stopping))
    assert all(task.cancelled() for task in stopping)
    await soon(worker.wait())
    views = [await rig.view(job) for job in jobs]
    assert [(view.status, view.attempt) for view in views] == [("pending", 0)] * 32
    assert sorted(cleaned) == list(range(8))
    await nothing_is_left_of(rig)


@pytest.mark.parametrize("cancels", [1, 2, 3, 10])
@pytest.mark.parametrize("kind", ["quick", "endless"])
async def test_worker_that_is_cancelled_however_often_settles_or_hands_back_everything(rig, cancels, kind):
    """asyncio.run does it at its end, task groups do it again and again."""

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        if kind == "endless":
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(32)])
    worker = rig.worker(concurrency=8, prefetch=24)
    await running(rig, *jobs[:8])
    main = worker._main
    assert main is not None
    for _ in range(cancels):
        main.cancel()
        await asyncio.sleep(0)
    await soon(asyncio.wait({main}))
    assert main.cancelled()
    statuses = await rig.statuses()
    assert statuses["completed"] + statuses["pending"] == 32
    if kind == "endless":
        assert statuses["pending"] == 32
    else:
        assert statuses["completed"] >= 8
    assert sum([(await rig.view(job)).attempt for job in jobs]) == statuses["completed"]
    await nothing_is_left_of(rig)


@pytest.mark.parametrize("after", range(12))
async def test_cancel_at_any_step_of_a_settle_loses_no_outcome(rig, after):
    """It is cancelled so many turns after the handlers ended: before, in, and after the call that settles them."""
    go_on = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        await go_on.wait()

    jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(5)])
    worker = rig.worker(concurrency=5)
    await running(rig, *jobs)
    go_on.set()
    await turns(after)
    main = worker._main
    assert main is not None
    main.cancel()
    await soon(asyncio.wait({main}))
    statuses = await rig.statuses()
    # Ended handlers are acknowledged; those that the cancel caught go back.
    assert statuses["completed"] + statuses["pending"] == 5
    assert after < 2 or statuses["completed"] == 5


@pytest.mark.parametrize("how_far", ["not there yet", "done, its reply on the way"])
async def test_outcome_whose_call_was_cancelled_under_way_is_applied_once(rig, how_far):
    """It goes out once more, whether or not the store has it, and counts once."""
    gate, entered = asyncio.Event(), asyncio.Event()
    fault = waits_for if how_far == "not there yet" else answers_after

    @rig.q.handle("h", queue="q")
    async def handler(ctx):
        rig.faults.plans["settle"] = [fault(gate, entered)]
        ctx.enqueue("after", queue="never", id="follow-up")
        return "once"

    worker = rig.worker(concurrency=1)
    job = await handler.enqueue()
    await soon(entered.wait())
    main = worker._main
    assert main is not None
    main.cancel()
    await soon(asyncio.wait({main}))
    view = await rig.view(job)
    assert (view.status, view.result, view.attempt) == ("completed", "once", 1)
    assert (await rig.statuses("never"))["pending"] == 1
    await nothing_is_left_of(rig)


def test_loop_that_is_torn_down_uses_up_no_attempt(store, place):
    """asyncio.run cancels every task at its end, those that run handlers among them: no failure of theirs."""
    from worker.conftest import _plugin

    seen = []
    over = threading.Event()
    rig = Rig(_plugin(store, place, test_clock=False))

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler(n: int):
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(n)

    @rig.q.handle("t", queue="q", max_retries=0)
    def thread(ctx):
        while not ctx.cancelled and not over.wait(0.005):
            pass

    statuses = []

    async def program():
        await rig.q.start()
        rig.worker(concurrency=4, prefetch=4)
        jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(3)])
        jobs.append(await rig.q.enqueue("t"))
        jobs += await rig.q.enqueue_bulk([handler.build(n) for n in range(3, 6)])
        await running(rig, *jobs[:4])
        return jobs

    async def look(jobs):
        statuses.extend([((await rig.store.get([job.id]))[0].status) for job in jobs])  # type: ignore[union-attr]
        statuses.extend(await rig.open_sessions())

    with asyncio.Runner() as runner:
        jobs = runner.run(program())
        loop = runner.get_loop()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop), return_exceptions=True))
        runner.run(look(jobs))
        attempts = [view.attempt for view in runner.run(_views(rig, jobs))]
        runner.run(rig.store.disconnect())
    over.set()
    assert statuses == ["pending"] * 7
    assert attempts == [0] * 7
    assert sorted(seen) == [0, 1, 2]


async def _views(rig: Rig, jobs):
    return await rig.store.get([job.id for job in jobs])


async def test_bug_in_the_worker_ends_it_with_a_reason_and_hands_everything_back(rig, monkeypatch):
    """A bug never passes for a failed job, and never hides."""

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        await asyncio.Event().wait()

    jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(6)])
    worker = rig.worker(concurrency=2, prefetch=2)
    await running(rig, *jobs[:2])
    await until(lambda: worker._is_resting)
    rig.faults.plans["settle"] = [fails(KeyError("a driver's own error"))]
    worker._look_again()
    worker._slots._prefetch._fixed = 10
    with pytest.raises(KeyError):
        await soon(worker.wait())
    assert isinstance(worker.failure, KeyError)
    assert [(await rig.view(job)).status for job in jobs] == ["pending"] * 6
    assert "driver's own" in rig.told.of("worker:error")[-1]["error"]
    await nothing_is_left_of(rig)


async def test_bug_in_the_executor_fails_one_run_and_no_slot(rig, monkeypatch):
    from psyqueue.kernel.executor import Executor

    real = Executor.execute
    broken = ["once"]

    async def execute(self, run):
        if broken:
            broken.pop()
            raise ZeroDivisionError("in the executor")
        await real(self, run)

    monkeypatch.setattr(Executor, "execute", execute)

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler(): ...

    worker = rig.worker(concurrency=1)
    jobs = [await handler.enqueue(), await handler.enqueue()]
    assert await rig.ended(*jobs) == ["dead", "completed"]
    assert worker.is_running


async def test_worker_that_cannot_open_its_session_says_so_and_is_gone(rig):
    from psyqueue.errors import StoreUnusable

    rig.faults.always["open_session"] = fails(StoreUnusable("not our file"))
    worker = rig.worker()
    with pytest.raises(StoreUnusable):
        await soon(worker.wait())
    assert not worker.is_running
    rig.faults.always.clear()
    await nothing_is_left_of(rig)
