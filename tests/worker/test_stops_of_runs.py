"""Timeouts and cancels: a run ends when it has to, whatever its handler does, and its slot is accounted for."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
import threading

import pytest

from psyqueue import Cancel, JobCancelled, JobDead
from psyqueue.errors import StoreUnavailable
from psyqueue.kernel import orders
from support.waiting import is_process_alive, wait_until
from worker import process_handlers as elsewhere
from worker.rig import LIMIT_S, Rig, renewed_often, shortened, soon, time_is_up, turns, until


async def read_file(path) -> str:
    """What another process writes, once it is there."""
    assert await asyncio.to_thread(wait_until, path.exists, limit_s=LIMIT_S)
    text: str = path.read_text()
    return text


def are_gone(text: str) -> bool:
    return wait_until(lambda: not any(is_process_alive(int(pid)) for pid in text.split()))


# ── timeout ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_timeout_ends_an_async_handler_and_counts_as_a_failed_run(rig):
    cleaned = []

    @rig.q.handle("h", queue="q", timeout=0.05, max_retries=0)
    async def handler():
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    rig.worker()
    job = await handler.enqueue()
    with pytest.raises(JobDead) as caught:
        await job.result(20)
    assert caught.value.error is not None
    assert caught.value.error["code"] == "HANDLER_TIMEOUT"
    assert "50 ms" in caught.value.error["message"]
    assert cleaned == [True]


async def test_timeout_of_the_job_goes_over_that_of_the_handler(rig):
    @rig.q.handle("h", queue="q", timeout="1h", max_retries=0)
    async def handler():
        await asyncio.Event().wait()

    @rig.q.handle("plain", queue="q", max_retries=0)
    async def plain():
        await asyncio.Event().wait()

    rig.worker()
    jobs = [await handler.options(timeout=0.05).enqueue(), await plain.options(timeout=0.05).enqueue()]
    assert await rig.ended(*jobs) == ["dead", "dead"]


async def test_run_within_its_timeout_is_left_alone(rig):
    @rig.q.handle("h", queue="q", timeout="1h")
    async def handler():
        await asyncio.sleep(0)
        return "ok"

    rig.worker()
    assert await (await handler.enqueue()).result(20) == "ok"


async def test_timeout_covers_the_middleware_around_the_handler(built):
    async def slow(ctx, call_next):
        await call_next()
        await asyncio.Event().wait()

    built.q.pipeline("process", slow)

    @built.q.handle("h", queue="q", timeout=0.05, max_retries=0)
    async def handler(): ...

    async with built.q:
        built.worker()
        assert await built.ended(await handler.enqueue()) == ["dead"]
        await built.q.stop(grace=0)


async def test_handler_that_takes_its_timeout_for_an_order_to_return_has_timed_out_all_the_same(rig):
    @rig.q.handle("h", queue="q", timeout=0.05, max_retries=0)
    async def handler():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "half of it"

    rig.worker()
    job = await handler.enqueue()
    assert await rig.ended(job) == ["dead"]
    assert (await rig.view(job)).errors[0]["code"] == "HANDLER_TIMEOUT"


async def test_cleanup_after_a_timeout_is_not_cut_short_by_the_end_of_the_worker(rig):
    """One cancel a run: the second one would hit the handler's own clean-up."""
    cleaning, go_on, cleaned = asyncio.Event(), asyncio.Event(), []

    @rig.q.handle("h", queue="q", timeout=0.01, max_retries=0)
    async def handler():
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await go_on.wait()
            cleaned.append(True)

    worker = rig.worker()
    job = await handler.enqueue()
    await soon(cleaning.wait())
    stopping = asyncio.create_task(worker.stop(grace=0))
    await turns(20)
    go_on.set()
    await soon(stopping)
    assert cleaned == [True]
    assert (await rig.view(job)).errors[0]["code"] == "HANDLER_TIMEOUT"


async def test_thread_that_outlives_its_timeout_is_left_behind_and_its_slot_not_used(rig, blocker):
    seen = []

    @rig.q.handle("stuck", queue="q", timeout="1h", max_retries=0)
    def stuck(ctx):
        blocker.block()
        seen.append(ctx.cancelled)

    @rig.q.handle("next", queue="q")
    def following():
        seen.append("next")

    worker = rig.worker(concurrency=1, prefetch=0)
    job = await stuck.enqueue()
    await until(blocker.began.is_set)
    time_is_up(worker)
    assert await rig.ended(job) == ["dead"]
    assert worker._threads.abandoned == 1
    waiting = await following.enqueue()
    await turns(200)
    assert (seen, await rig.status(waiting)) == ([], "pending")
    blocker.open()
    # Nobody but the thread itself can wake the worker here.
    assert await rig.ended(waiting) == ["completed"]
    assert seen == [True, "next"]
    assert worker._threads.abandoned == 0


async def test_second_slot_goes_on_while_a_thread_is_left_behind(rig, blocker):
    @rig.q.handle("stuck", queue="q", timeout="1h", max_retries=0)
    def stuck():
        blocker.block()

    @rig.q.handle("next", queue="q")
    def following():
        return "ran"

    worker = rig.worker(concurrency=2)
    job = await stuck.enqueue()
    await until(blocker.began.is_set)
    time_is_up(worker)
    assert await rig.ended(job) == ["dead"]
    assert [await (await following.enqueue()).result(20) for _ in range(5)] == ["ran"] * 5


async def test_thread_handler_that_no_thread_has_begun_is_not_begun_after_its_stop(rig, monkeypatch):
    """All the threads of the process are late: the call waits in line while its run is given up."""
    ran = []

    @rig.q.handle("h", queue="q", timeout=0.05, max_retries=0)
    def handler():
        ran.append(1)

    worker = rig.worker(concurrency=1)
    monkeypatch.setattr(worker._threads, "_start_thread", lambda: None)
    job = await handler.enqueue()
    assert await rig.ended(job) == ["dead"]
    assert worker._threads.abandoned == 0
    assert worker._threads._serve_one() is True
    assert ran == []


async def test_timeout_kills_the_process_and_the_programs_it_started(rig, tmp_path):
    """Its time is up when everything has started, however long that took."""
    handler = rig.q.handle("h", elsewhere.hang, queue="q", mode="process", timeout="1h", max_retries=0)
    worker = rig.worker()
    path = tmp_path / "pids"
    job = await handler.enqueue(str(path))
    pids = await read_file(path)
    time_is_up(worker)
    assert await rig.ended(job) == ["dead"]
    assert (await rig.view(job)).errors[0]["code"] == "HANDLER_TIMEOUT"
    assert not is_process_alive(int(pids.split()[0])), "it is dead before its run is settled"
    assert await asyncio.to_thread(are_gone, pids)
    assert worker._children._all == set()


SLOW_TO_IMPORT = """
import os, threading
if os.getpid() != {pid}:
    threading.Event().wait(2.5)

def double(n):
    return 2 * n
"""


async def test_timeout_of_a_process_begins_when_its_module_is_imported(rig, tmp_path, monkeypatch):
    """Else a handler whose imports take longer than its timeout would be killed in each of them, and never run."""
    (tmp_path / "slow_to_import.py").write_text(SLOW_TO_IMPORT.format(pid=os.getpid()))
    monkeypatch.syspath_prepend(str(tmp_path))
    double = importlib.import_module("slow_to_import").double
    del sys.modules["slow_to_import"]
    handler = rig.q.handle("h", double, queue="q", mode="process", timeout="2s", max_retries=0)
    rig.worker()
    assert await (await handler.enqueue(21)).result(LIMIT_S) == 42


async def test_run_is_not_settled_before_its_process_is_known_to_be_dead(rig, monkeypatch, tmp_path):
    from psyqueue.kernel import children

    real, known = children._Child.gone, asyncio.Event()

    async def gone(self):
        await known.wait()
        await real(self)

    monkeypatch.setattr(children._Child, "gone", gone)
    handler = rig.q.handle("h", elsewhere.hang, queue="q", mode="process", max_retries=0)
    rig.worker()
    path = tmp_path / "pids"
    job = await handler.enqueue(str(path))
    await read_file(path)
    await cancel_and_tell(rig, job)
    await turns(300)
    assert await rig.status(job) == "active"
    known.set()
    assert await rig.ended(job) == ["cancelled"]


async def test_process_that_dies_while_a_forked_one_keeps_its_socket_is_noticed(rig, tmp_path):
    """The end of the socket never comes; the end of the process does."""
    handler = rig.q.handle("h", elsewhere.hang_forked, queue="q", mode="process", max_retries=0)
    rig.worker()
    path = tmp_path / "pids"
    job = await handler.enqueue(str(path))
    assert await rig.ended(job) == ["dead"]
    assert "SIGKILL" in (await rig.view(job)).errors[0]["message"]
    os.kill(int(path.read_text().split()[1]), signal.SIGKILL)


async def test_what_a_process_handler_forked_can_be_ended_by_it(rig):
    """The child leaves TERM to its worker; a pool of `multiprocessing` that did so, too, would never end."""
    handler = rig.q.handle("h", elsewhere.end_what_it_forked, queue="q", mode="process")
    rig.worker()
    assert await (await handler.enqueue()).result(60) == -signal.SIGTERM


# ── handlers that do not listen ───────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("why", ["timeout", "cancel"])
async def test_handler_that_swallows_its_cancel_is_left_behind_and_its_slot_counted(rig, deaf, monkeypatch, why):
    @rig.q.handle("deaf", queue="q", timeout=0.05 if why == "timeout" else None, max_retries=0)
    async def ignores():
        await deaf.ignore_cancels()

    @rig.q.handle("next", queue="q")
    async def following():
        return "ran"

    with shortened(monkeypatch, ABANDON_MS=100):
        worker = rig.worker(concurrency=2)
        job = await ignores.enqueue()
        if why == "cancel":
            await rig.told.first("job:started", job.id)
            await cancel_and_tell(rig, job)
        assert await rig.ended(job) == ["dead" if why == "timeout" else "cancelled"]
        assert deaf.swallowed == 1
        assert worker._slots._free_size() == 1
        assert [await (await following.enqueue()).result(20) for _ in range(5)] == ["ran"] * 5
        await until(lambda: worker.health()["held"] == 0)
        deaf.open()
        await until(lambda: worker._slots._free_size() == 2)
        assert await (await following.enqueue()).result(20) == "ran"


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_worker_whose_every_slot_is_stuck_ends_and_says_why(rig, deaf, monkeypatch, blocker, kind):
    if kind == "async":

        @rig.q.handle("deaf", queue="q", timeout="1h", max_retries=0)
        async def ignores():
            blocker.count += 1
            await deaf.ignore_cancels()

    else:

        @rig.q.handle("deaf", queue="q", timeout="1h", max_retries=0)
        def ignores_too():
            blocker.block()

    with shortened(monkeypatch, ABANDON_MS=100):
        worker = rig.worker(concurrency=2, prefetch=3)
        jobs = await rig.q.enqueue_bulk([{"name": "deaf"}] * 5)
        await until(lambda: blocker.count == 2)
        time_is_up(worker)
        with pytest.raises(RuntimeError, match="every slot"):
            await soon(worker.wait())
    assert not worker.is_running
    assert rig.told.of("worker:error")
    # What it never started goes back; what it gave up is settled.
    assert sorted([await rig.status(job) for job in jobs]) == ["dead", "dead", "pending", "pending", "pending"]
    assert (await rig.store.sessions(None, 10))[0] == ()


async def test_slots_that_are_stuck_for_a_moment_only_do_not_end_the_worker(rig):
    """Each thread outlives its timeout, but comes back: the time for that begins anew with each of them."""
    began, again = threading.Semaphore(0), threading.Semaphore(0)

    @rig.q.handle("late", queue="q", timeout="1h", max_retries=0)
    def late():
        began.release()
        assert again.acquire(timeout=LIMIT_S)

    worker = rig.worker(concurrency=1)
    for _ in range(5):
        job = await late.enqueue()
        assert await asyncio.to_thread(began.acquire, timeout=LIMIT_S)
        time_is_up(worker)
        assert await rig.ended(job) == ["dead"]
        end_of_all = worker._slots._full_timer
        assert end_of_all is not None
        again.release()
        await until(end_of_all.cancelled)
        assert worker._slots._full_timer is None
    assert worker.is_running
    assert worker.failure is None


# ── cancel ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def cancel_and_tell(rig: Rig, job) -> bool:
    """Ask for it, and bring the worker the news: any call to the store does, at the latest the next renewal."""
    asked: bool = await job.cancel()
    rig.core.workers[0]._slots.cancel([job.id])
    return asked


async def test_cancelled_before_it_started_it_never_runs(rig):
    runs = []

    @rig.q.handle("h", queue="q")
    async def handler():
        runs.append(1)

    pending, scheduled = await handler.enqueue(), await handler.options(delay="1h").enqueue()
    assert [await pending.cancel(), await scheduled.cancel()] == [True, True]
    rig.worker()
    assert await rig.ended(pending, scheduled) == ["cancelled", "cancelled"]
    with pytest.raises(JobCancelled):
        await pending.result(20)
    assert (runs, await pending.cancel()) == ([], False)


async def test_cancel_reaches_a_job_that_waits_for_a_slot(rig):
    release, runs = asyncio.Event(), []

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        runs.append(n)
        await release.wait()

    rig.worker(concurrency=1, prefetch=5)
    first, second = await handler.enqueue(1), await handler.enqueue(2)
    await rig.told.first("job:started", first.id)
    while await rig.status(second) != "active":
        await soon(rig.store.wait((), (second.id,), 50))
    assert await second.cancel() is True
    # The worker hears of it with the answer to any of its calls: here, when it fetches the third.
    third = await handler.enqueue(3)
    assert await rig.ended(second) == ["cancelled"]
    release.set()
    assert await rig.ended(first, third) == ["completed", "completed"]
    assert runs == [1, 3]


async def test_renewal_brings_the_wish_to_cancel_to_an_async_handler(rig, monkeypatch):
    """No other call is made, and nobody can listen: the lease thread alone hears of it."""
    reasons = []

    def nobody_listens(self, topics):
        raise StoreUnavailable("no listening", "refused")

    monkeypatch.setattr(type(rig.store), "subscribe", nobody_listens)

    @rig.q.handle("h", queue="q")
    async def handler(ctx):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            reasons.append(ctx.cancelled)
            raise

    rig.worker(concurrency=1, lease_ms=renewed_often(monkeypatch))
    job = await handler.enqueue()
    await rig.told.first("job:started", job.id)
    assert await job.cancel() is True
    assert await rig.ended(job) == ["cancelled"]
    assert reasons == [True]
    await rig.told.first("job:cancelled", job.id)


async def test_cancel_is_heard_at_once_without_a_renewal_or_another_job(rig):
    """Whoever asks for it tells the holder; every word is heard, however many cancels there are."""

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        await asyncio.Event().wait()

    worker = rig.worker(concurrency=5, lease_ms=3_600_000)
    for _ in range(5):
        jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(5)])
        for job in jobs:
            await rig.told.first("job:started", job.id)
        await until(lambda: worker._is_resting)
        assert await asyncio.gather(*(job.cancel() for job in jobs)) == [True] * 5
        assert await rig.ended(*jobs) == ["cancelled"] * 5


async def test_subscription_that_fails_is_made_again(rig, monkeypatch):
    """No renewal and no other call brings the word: it has no slot that it could fetch for."""
    monkeypatch.setattr(orders, "LISTEN_AGAIN_MS", 1)
    real, made = rig.store.subscribe, []

    def subscribe(self, topics):
        made.append(topics)
        if len(made) < 4:
            raise StoreUnavailable("no listening", "refused")
        return real(topics)

    monkeypatch.setattr(type(rig.store), "subscribe", subscribe)

    @rig.q.handle("h", queue="q")
    async def handler():
        await asyncio.Event().wait()

    worker = rig.worker(concurrency=1, lease_ms=3_600_000)
    job = await handler.enqueue()
    await rig.told.first("job:started", job.id)
    await until(lambda: len(made) == 4)
    await until(lambda: worker._is_resting)
    await job.cancel()
    assert await rig.ended(job) == ["cancelled"]
    assert worker.is_running


async def test_thread_sees_the_wish_to_cancel_and_ends_by_itself(rig):
    began = threading.Event()

    @rig.q.handle("h", queue="q")
    def handler(ctx):
        began.set()
        tick = threading.Event()
        while not ctx.cancelled:
            tick.wait(0.005)
        raise Cancel("as asked")

    rig.worker()
    job = await handler.enqueue()
    assert await asyncio.to_thread(began.wait, LIMIT_S)
    await cancel_and_tell(rig, job)
    assert await rig.ended(job) == ["cancelled"]


async def test_thread_that_was_asked_to_cancel_may_finish_and_what_it_finished_counts(rig, blocker):
    @rig.q.handle("h", queue="q")
    def handler(ctx):
        blocker.block()
        return ["finished", ctx.cancelled]

    worker = rig.worker()
    job = await handler.enqueue()
    assert await asyncio.to_thread(blocker.began.wait, LIMIT_S)
    await cancel_and_tell(rig, job)
    await turns(50)
    assert len(worker._slots.running) == 1
    blocker.open()
    assert await job.result(20) == ["finished", True]


async def test_process_is_killed_when_its_job_is_cancelled(rig, tmp_path):
    handler = rig.q.handle("h", elsewhere.hang, queue="q", mode="process")
    rig.worker()
    path = tmp_path / "pids"
    job = await handler.enqueue(str(path))
    pids = await read_file(path)
    await cancel_and_tell(rig, job)
    assert await rig.ended(job) == ["cancelled"]
    assert await asyncio.to_thread(are_gone, pids)


async def test_finished_ack_beats_the_cancel(rig):
    """The handler has ended when the wish arrives: completed wins."""
    from worker.rig import waits_for

    gate, entered = asyncio.Event(), asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler():
        rig.faults.plans["settle"] = [waits_for(gate, entered)]
        return "done"

    rig.worker(concurrency=1)
    job = await handler.enqueue()
    await soon(entered.wait())
    await cancel_and_tell(rig, job)
    gate.set()
    assert await job.result(20) == "done"


async def test_run_that_ends_well_after_its_cancel_is_completed(rig):
    @rig.q.handle("h", queue="q")
    async def handler():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "saved"

    rig.worker()
    job = await handler.enqueue()
    await rig.told.first("job:started", job.id)
    await cancel_and_tell(rig, job)
    assert await job.result(20) == "saved"


async def test_error_that_a_handler_makes_of_its_cancel_is_no_failure(rig):
    @rig.q.handle("h", queue="q")
    async def handler():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("interrupted") from None

    rig.worker()
    job = await handler.enqueue()
    await rig.told.first("job:started", job.id)
    await cancel_and_tell(rig, job)
    assert await rig.ended(job) == ["cancelled"]
    assert (await rig.view(job)).errors == ()


async def test_job_that_fails_while_its_cancel_is_asked_for_does_not_come_again(rig, blocker):
    """The store decides: a retry of a job that somebody wants cancelled is its end."""

    @rig.q.handle("h", queue="q")
    def handler():
        blocker.block()
        raise ValueError("failed")

    rig.worker()
    job = await handler.enqueue()
    assert await asyncio.to_thread(blocker.began.wait, LIMIT_S)
    await job.cancel()
    blocker.open()
    assert await rig.ended(job) == ["cancelled"]
