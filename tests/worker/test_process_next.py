"""`process_next`: one job, now; everything about a run means the same as in a worker."""

from __future__ import annotations

import asyncio
import threading

import pytest

from psyqueue import Retry, Snooze
from psyqueue.errors import StoreFull, StoreUnavailable
from support.waiting import is_process_alive, wait_until
from worker import process_handlers as elsewhere
from worker.rig import LIMIT_S, Rig, answers_after, fails, lease_threads, loses_reply, shortened, soon, turns, until


async def nothing_is_left_of(rig: Rig) -> None:
    assert await rig.open_sessions() == []
    await until(lambda: lease_threads() == [])
    names = [task.get_name() for task in asyncio.all_tasks()]
    assert [name for name in names if name.startswith("psyqueue")] == []


async def test_runs_one_job_to_its_end_and_says_whether_there_was_one(rig):
    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        return n

    assert await rig.q.process_next("q") is False
    jobs = [await handler.enqueue(n) for n in range(2)]
    assert await rig.q.process_next("q") is True
    assert [await rig.status(job) for job in jobs] == ["completed", "pending"]
    assert await rig.q.process_next("q") is True
    assert await rig.q.process_next("q") is False
    assert [(await rig.view(job)).result for job in jobs] == [0, 1]
    await nothing_is_left_of(rig)


async def test_promotes_what_is_due_and_never_waits_for_the_rest(still):
    @still.q.handle("h", queue="q")
    async def handler(): ...

    job = await handler.options(delay=10).enqueue()
    assert await still.q.process_next("q") is False
    await still.advance(10)
    assert await still.q.process_next("q") is True
    assert await still.status(job) == "completed"


@pytest.mark.parametrize("kind", ["thread", "process"])
async def test_runs_every_kind_of_handler(rig, kind):
    if kind == "thread":
        rig.q.handle("h", elsewhere.add, queue="q")
    else:
        rig.q.handle("h", elsewhere.add, queue="q", mode="process")
    job = await rig.q.enqueue("h", {"a": 1, "b": 2})
    assert await rig.q.process_next("q") is True
    assert (await rig.view(job)).result == 3
    await nothing_is_left_of(rig)


async def test_failures_and_verdicts_decide_as_in_a_worker(still):
    @still.q.handle("h", queue="q", backoff="fixed", backoff_base=2, backoff_jitter=False)
    async def handler(how: str):
        if how == "fail":
            raise ValueError("no")
        return {"snooze": Snooze(3), "retry": Retry(after=4)}[how]

    found = []
    for how in ("fail", "snooze", "retry"):
        job = await handler.enqueue(how)
        assert await still.q.process_next("q") is True
        view = await still.view(job)
        found.append((view.status, view.attempt, (view.run_at - view.started_at).total_seconds()))
    assert found == [("scheduled", 1, 2), ("scheduled", 0, 3), ("scheduled", 1, 4)]


async def test_progress_follow_ups_and_events_are_those_of_any_run(rig):
    @rig.q.handle("h", queue="q")
    def handler(ctx):
        ctx.progress({"done": 1})
        ctx.enqueue("after", queue="later", id="follow-up")
        ctx.progress({"done": 2})
        return "ok"

    job = await handler.enqueue()
    assert await rig.q.process_next("q") is True
    (item,) = await rig.store.read_state([f"progress:{job.id}"])
    assert item is not None
    assert item.value == b'{"done":2}'
    assert await rig.status("follow-up") == "pending"
    assert rig.told.types(job.id) == ["job:enqueued", "job:started", "job:completed"]
    assert len(rig.told.of("job:enqueued", "follow-up")) == 1


async def test_conflicting_follow_up_fails_the_run(rig):
    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler(ctx):
        ctx.enqueue("after", queue="later", depends_on="nobody")

    job = await handler.enqueue()
    assert await rig.q.process_next("q") is True
    assert (await rig.view(job)).status == "dead"


async def test_job_of_an_unknown_handler_is_put_off(still):
    job = await still.q.enqueue("h", queue="q")
    assert await still.q.process_next("q") is True
    assert await still.status(job) == "scheduled"


async def test_job_that_lost_its_worker_too_often_still_runs(still):
    @still.q.handle("h", queue="q")
    async def handler(ctx):
        return ctx.job.lost

    job = await handler.enqueue()
    for _ in range(2):
        await still.settle_as_other()
        await still.lose_sessions()
        await still.advance(60)
    assert await still.q.process_next("q") is True
    assert (await still.view(job)).result == 2


# ── stops ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_timeout_is_enforced_also_on_a_handler_that_swallows_its_cancel(rig, deaf, monkeypatch):
    @rig.q.handle("h", queue="q", timeout=0.05, max_retries=0)
    async def handler():
        await deaf.ignore_cancels()

    with shortened(monkeypatch, ABANDON_MS=100):
        job = await handler.enqueue()
        assert await soon(rig.q.process_next("q")) is True
    assert (await rig.view(job)).errors[0]["code"] == "HANDLER_TIMEOUT"


async def test_thread_that_outlives_its_timeout_is_left_behind(rig, blocker):
    @rig.q.handle("h", queue="q", timeout=0.05, max_retries=0)
    def handler():
        blocker.block()

    job = await handler.enqueue()
    assert await soon(rig.q.process_next("q")) is True
    assert await rig.status(job) == "dead"


async def test_cancel_reaches_the_run_with_the_renewal(rig, monkeypatch):
    from psyqueue.kernel import single

    monkeypatch.setattr(single, "LEASE_MS", 300)
    seen = []

    @rig.q.handle("async", queue="q")
    async def on_the_loop():
        await asyncio.Event().wait()

    @rig.q.handle("thread", queue="q")
    def in_a_thread(ctx):
        tick = threading.Event()
        while not ctx.cancelled:
            tick.wait(0.005)
        seen.append("heard")
        return "finished all the same"

    for name, status in (("async", "cancelled"), ("thread", "completed")):
        job = await rig.q.enqueue(name, queue="q")
        running = asyncio.create_task(rig.q.process_next("q"))
        await rig.told.first("job:started", job.id)
        await job.cancel()
        assert await soon(running) is True
        assert await rig.status(job) == status
    assert seen == ["heard"]


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_cancelled_it_hands_its_job_back_however_often_it_is_cancelled(rig, times):
    cleaned = []

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler():
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(1)

    job = await handler.enqueue()
    running = asyncio.create_task(rig.q.process_next("q"))
    await rig.told.first("job:started", job.id)
    for _ in range(times):
        running.cancel()
        await turns()
    with pytest.raises(asyncio.CancelledError):
        await soon(running)
    view = await rig.view(job)
    assert (view.status, view.attempt, cleaned) == ("pending", 0, [1])
    await nothing_is_left_of(rig)


async def test_cancelled_while_it_fetches_it_hands_back_what_it_got(rig):
    gate, done = asyncio.Event(), asyncio.Event()
    runs = []

    @rig.q.handle("h", queue="q")
    async def handler():
        runs.append(1)

    job = await handler.enqueue()
    rig.faults.plans["settle"] = [answers_after(gate, done)]
    running = asyncio.create_task(rig.q.process_next("q"))
    await soon(done.wait())
    running.cancel()
    await turns(3)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await soon(running)
    view = await rig.view(job)
    assert (view.status, view.attempt, runs) == ("pending", 0, [])


async def test_cancelled_it_kills_the_process_of_its_handler(rig, tmp_path):
    handler = rig.q.handle("h", elsewhere.hang, queue="q", mode="process")
    path = tmp_path / "pids"
    job = await handler.enqueue(str(path))
    running = asyncio.create_task(rig.q.process_next("q"))
    assert await asyncio.to_thread(wait_until, path.exists, limit_s=LIMIT_S)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(running)
    assert not is_process_alive(int(path.read_text().split()[0]))
    assert await rig.status(job) == "pending"


# ── the store ─────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_failing_calls_are_repeated_and_the_outcome_counts_once(rig):
    runs = []

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler():
        runs.append(1)
        cut, refused = StoreUnavailable("cut"), StoreUnavailable("no", "refused")
        rig.faults.plans["settle"] = [loses_reply(cut), fails(refused), fails(cut)]
        return "once"

    job = await handler.enqueue()
    rig.faults.plans["settle"] = [loses_reply(StoreUnavailable("cut"))]
    assert await soon(rig.q.process_next("q")) is True
    view = await rig.view(job)
    assert (view.status, view.result, view.attempt, runs) == ("completed", "once", 1, [1])


async def test_store_that_stays_away_is_an_error_of_the_call_and_no_failure_of_the_job(rig, monkeypatch):
    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler():
        rig.faults.always["settle"] = fails(StoreFull("disk full"))

    job = await handler.enqueue()
    with pytest.raises(StoreFull):
        await soon(rig.q.process_next("q"))
    rig.faults.always.clear()
    view = await rig.view(job)
    assert (view.status, view.errors) == ("pending", ()), "handed back when the session was closed"


async def test_lost_session_drops_the_outcome_and_says_so(still):
    @still.q.handle("h", queue="q")
    async def handler():
        await still.lose_sessions()
        return "too late"

    job = await handler.enqueue()
    assert await soon(still.q.process_next("q")) is True
    view = await still.view(job)
    assert (view.status, view.result, view.lost) == ("pending", None, 1)
    assert len(still.told.of("job:lease-lost", job.id)) == 1


async def test_renewal_that_finds_the_session_closed_stops_the_run(still, monkeypatch):
    from psyqueue.kernel import single

    monkeypatch.setattr(single, "LEASE_MS", 300)
    seen = []

    @still.q.handle("h", queue="q")
    async def handler(ctx):
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(ctx.lease_lost)

    job = await handler.enqueue()
    running = asyncio.create_task(still.q.process_next("q"))
    await still.told.first("job:started", job.id)
    await still.lose_sessions()
    assert await soon(running) is True
    assert seen == [True]
    assert len(still.told.of("job:lease-lost", job.id)) == 1
