"""What comes of a handler's run: its result, its mistakes, what it may see and what it must not."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import sys
import threading
from pathlib import Path

import pytest

from psyqueue import Context, JobDead
from psyqueue.backend import NewJob, Op
from worker import process_handlers as elsewhere
from worker.rig import soon, time_is_up, until


async def test_async_thread_and_process_handlers_give_their_results(rig):
    @rig.q.handle("async", queue="q")
    async def on_the_loop(a: int, b: int) -> int:
        return a + b

    @rig.q.handle("thread", queue="q")
    def in_a_thread(a: int, b: int) -> str:
        assert threading.current_thread() is not threading.main_thread()
        return f"{a + b}"

    in_a_process = rig.q.handle("process", elsewhere.add, queue="q", mode="process")
    rig.worker()
    jobs = [await on_the_loop.enqueue(1, 2), await in_a_thread.enqueue(1, 2), await in_a_process.enqueue(1, 2)]
    assert [await job.result(20) for job in jobs] == [3, "3", 3]
    assert [(await rig.view(job)).attempt for job in jobs] == [1, 1, 1]


async def test_handlers_see_their_job_and_context(rig):
    @rig.q.handle("h", queue="q")
    async def handler(ctx: Context, n: int) -> dict:
        job = ctx.job
        return {
            "seen": [job.id, job.queue, job.name, job.attempt, ctx.attempt, ctx.fence, job.priority, job.lost, n],
            "tenant": ctx.tenant,
            "meta": job.meta,
            "flags": [ctx.cancelled, ctx.lease_lost],
            "aware": job.created_at.tzinfo is not None and job.started_at >= job.created_at,
        }

    rig.worker()
    job = await handler.options(priority=5, tenant="acme", meta={"a": 1}).enqueue(7)
    assert await job.result(20) == {
        "seen": [job.id, "q", "h", 1, 1, 1, 5, 0, 7],
        "tenant": "acme",
        "meta": {"a": 1},
        "flags": [False, False],
        "aware": True,
    }


async def test_async_handler_in_a_process_sees_its_context(rig):
    handler = rig.q.handle("p", elsewhere.answer, queue="q", mode="process")
    rig.worker()
    job = await handler.enqueue(3)
    assert await job.result(20) == {"n": 3, "id": job.id, "attempt": 1}


# ── what cannot work, however often ───────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("kind", ["plain", "ctx", "thread", "process"])
async def test_result_that_is_no_json_is_dead_at_once_with_reason_result(rig, kind):
    if kind == "plain":

        @rig.q.handle("h", queue="q")
        async def plain():
            return object()

    elif kind == "ctx":

        @rig.q.handle("h", queue="q")
        async def with_ctx(ctx):
            return float("nan")

    elif kind == "thread":

        @rig.q.handle("h", queue="q")
        def thread():
            return {1: 2}

    else:
        rig.q.handle("h", elsewhere.not_json, queue="q", mode="process")
    rig.worker()
    job = await rig.q.enqueue("h")
    assert await rig.ended(job) == ["dead"]
    view = await rig.view(job)
    assert (view.reason, view.attempt, len(view.errors)) == ("result", 1, 1)


@pytest.mark.parametrize("takes", ["payload", "fields"])
async def test_payload_that_is_no_json_is_dead_at_once_and_kept(rig, takes):
    """Some other client wrote it straight into the store."""
    if takes == "fields":

        @rig.q.handle("h", queue="q")
        async def handler(n: int): ...

    else:

        @rig.q.handle("h", queue="q")
        async def with_ctx(ctx): ...

    job = NewJob(id="broken", queue="q", name="h", payload=b'{"n": 1')
    await rig.store.enqueue(Op("foreign", 1, 1), [job])
    rig.worker()
    (view,) = await rig.store.get(["broken"])
    while view.status != "dead":
        await soon(rig.store.wait((), ("broken",), 100))
        (view,) = await rig.store.get(["broken"])
    assert (view.reason, view.attempt, view.job.payload) == ("payload", 1, b'{"n": 1')


async def test_payload_that_does_not_fit_is_dead_at_once(rig):
    @rig.q.handle("h", queue="q")
    async def handler(n: int): ...

    rig.worker()
    job = await rig.q.enqueue("h", {"n": "seven"})
    assert await rig.ended(job) == ["dead"]
    assert (await rig.view(job)).reason == "payload"


# ── errors that are no Exception ──────────────────────────────────────────────────────────────────────────────────────
async def test_what_would_close_a_coroutine_raised_by_a_handler_fails_the_run(rig):
    @rig.q.handle("plain", queue="q", max_retries=1, backoff_base=0.001)
    async def plain():
        raise GeneratorExit("mine")

    @rig.q.handle("ctx", queue="q", max_retries=1, backoff_base=0.001)
    async def with_ctx(ctx):
        await asyncio.sleep(0)
        raise GeneratorExit("mine")

    worker = rig.worker()
    jobs = [await rig.q.enqueue(name) for name in ("plain", "ctx")]
    assert await rig.ended(*jobs) == ["dead"] * 2
    views = [await rig.view(job) for job in jobs]
    assert [(view.reason, view.attempt) for view in views] == [("exhausted", 2)] * 2
    assert all("GeneratorExit('mine')" in view.errors[0]["message"] for view in views)
    assert worker.is_running


async def test_own_backoff_that_leaves_the_process_leaves_the_worker_alone(rig):
    def leave(attempt, error):
        raise SystemExit(3)

    @rig.q.handle("fails", queue="q", max_retries=1, backoff=leave, backoff_base=0.001)
    async def fails():
        raise ValueError("first")

    worker = rig.worker()
    job = await rig.q.enqueue("fails")
    assert await rig.ended(job) == ["dead"]
    assert ["SystemExit" in each["note"] for each in (await rig.view(job)).errors] == [True, True]
    assert worker.is_running


async def test_sys_exit_in_a_handler_fails_the_run_and_not_the_worker(rig):
    @rig.q.handle("async", queue="q")
    async def on_the_loop():
        raise SystemExit(3)

    @rig.q.handle("thread", queue="q")
    def in_a_thread():
        raise SystemExit(3)

    @rig.q.handle("ctx", queue="q")
    async def with_ctx(ctx):
        raise SystemExit(3)

    rig.q.handle("process", elsewhere.leave, queue="q", mode="process")
    worker = rig.worker()
    jobs = [await rig.q.enqueue(name) for name in ("async", "thread", "ctx")]
    jobs.append(await rig.q.enqueue("process", {"how": "exit"}))
    assert await rig.ended(*jobs) == ["dead"] * 4
    views = [await rig.view(job) for job in jobs]
    assert [(view.reason, view.errors[0]["type"]) for view in views] == [("fatal", "SystemExit")] * 4
    assert worker.is_running


async def test_keyboard_interrupt_that_a_thread_raises_does_not_end_the_worker(rig):
    @rig.q.handle("thread", queue="q", max_retries=0)
    def in_a_thread():
        raise KeyboardInterrupt

    worker = rig.worker()
    job = await rig.q.enqueue("thread")
    assert await rig.ended(job) == ["dead"]
    assert "KeyboardInterrupt" in (await rig.view(job)).errors[0]["message"]
    assert worker.is_running


async def test_stop_iteration_from_a_thread_fails_the_run(rig):
    """No future can hold it: the naive way hangs the caller for ever."""

    @rig.q.handle("thread", queue="q", max_retries=0)
    def in_a_thread():
        return next(iter(()))

    rig.worker()
    job = await rig.q.enqueue("thread")
    assert await rig.ended(job) == ["dead"]
    assert "StopIteration" in (await rig.view(job)).errors[0]["message"]


async def test_cancelled_error_of_the_handlers_own_making_is_a_failure(rig):
    @rig.q.handle("async", queue="q", max_retries=0)
    async def on_the_loop():
        nobody = asyncio.get_running_loop().create_future()
        nobody.cancel()
        await nobody

    @rig.q.handle("thread", queue="q", max_retries=0)
    def in_a_thread():
        raise asyncio.CancelledError

    worker = rig.worker(concurrency=1)
    jobs = [await rig.q.enqueue("async"), await rig.q.enqueue("thread")]
    assert await rig.ended(*jobs) == ["dead", "dead"]
    assert [(await rig.view(job)).reason for job in jobs] == ["exhausted", "exhausted"]
    assert worker.is_running


async def test_handler_that_cancels_its_own_task_does_not_hit_the_next_run(rig):
    """Slots are reused: the cancel that was too late for this run must not reach the one after it."""

    @rig.q.handle("suicide", queue="q", max_retries=0)
    async def suicide():
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    @rig.q.handle("next", queue="q", max_retries=0)
    async def following():
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "alive"

    worker = rig.worker(concurrency=1, prefetch=20)
    jobs = await rig.q.enqueue_bulk([{"name": name} for name in ("suicide", "next") * 10])
    await rig.ended(*jobs)
    results = [await job.result(20) for job in jobs[1::2]]
    assert results == ["alive"] * 10
    assert worker.is_running


# ── context variables ─────────────────────────────────────────────────────────────────────────────────────────────────
VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")


async def test_context_variables_do_not_leak_from_run_to_run(built):
    seen: list[tuple[str, str]] = []

    async def dirty_middleware(ctx, call_next):
        seen.append((f"middleware {ctx.job.name}", VARIABLE.get()))
        VARIABLE.set("middleware")
        await call_next()

    async def dirty_guard(ctx, call_next):
        seen.append(("guard", VARIABLE.get()))
        VARIABLE.set("guard")
        await call_next()

    rig = built
    rig.q.pipeline("enqueue", dirty_guard)
    rig.q.pipeline("process", dirty_middleware)
    async with rig.q:

        @rig.q.handle("async", queue="q")
        async def on_the_loop(ctx):
            seen.append(("async", VARIABLE.get()))
            VARIABLE.set("async")
            ctx.enqueue("after", queue="never")

        @rig.q.handle("thread", queue="q")
        def in_a_thread():
            seen.append(("thread", VARIABLE.get()))
            VARIABLE.set("thread")

        jobs = await asyncio.gather(*(rig.q.enqueue(name) for name in ("async", "thread") * 10))
        seen.clear()
        rig.worker(concurrency=1)
        await rig.ended(*jobs)
        await rig.q.stop(grace=0)
    assert len(seen) == 50
    assert {value for where, value in seen if where.startswith("middleware")} == {"clean"}
    assert {value for where, value in seen if where in ("async", "thread")} == {"middleware"}
    # The guard of a follow-up is part of the run that made it, and of no other.
    assert {value for where, value in seen if where == "guard"} == {"async"}


async def test_context_variables_do_not_leak_without_middleware(rig):
    seen = []

    @rig.q.handle("plain", queue="q")
    async def plain(n: int):
        seen.append(VARIABLE.get())
        VARIABLE.set(f"job {n}")
        await asyncio.sleep(0)
        assert VARIABLE.get() == f"job {n}"

    jobs = await rig.q.enqueue_bulk([plain.build(n) for n in range(50)])
    rig.worker(concurrency=3)
    assert await rig.ended(*jobs) == ["completed"] * 50
    assert seen == ["clean"] * 50


async def test_slot_opened_by_a_returning_thread_starts_with_the_workers_context(rig, blocker):
    """Its callback runs in a context of its own, which is not that of the worker."""
    seen, hold = [], asyncio.Event()

    @rig.q.handle("stuck", queue="q", timeout="1h", max_retries=0)
    def stuck():
        blocker.block()

    @rig.q.handle("next", queue="q")
    async def following():
        seen.append(VARIABLE.get())
        await hold.wait()

    token = VARIABLE.set("worker")
    worker = rig.worker(concurrency=2, prefetch=10)
    VARIABLE.reset(token)
    job = await rig.q.enqueue("stuck")
    await until(blocker.began.is_set)
    time_is_up(worker)
    assert await rig.ended(job) == ["dead"]
    assert len(worker._slots._slots) == 1
    jobs = await rig.q.enqueue_bulk([{"name": "next"}] * 3)
    await until(lambda: len(seen) == 1 and worker.health()["held"] == 3)
    blocker.open()
    await until(lambda: len(seen) == 2)
    hold.set()
    assert await rig.ended(*jobs) == ["completed"] * 3
    assert seen == ["worker"] * 3


# ── whose handler it is ───────────────────────────────────────────────────────────────────────────────────────────────
async def test_asyncio_tools_inside_a_handler_mean_what_they_always_mean(rig):
    @rig.q.handle("h", queue="q")
    async def handler():
        seen = []
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            seen.append("timeout")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.Event().wait())
                group.create_task(_raise(KeyError("x")))
        except* KeyError:
            seen.append("group")
        return seen

    rig.worker(concurrency=1)
    jobs = [await rig.q.enqueue("h") for _ in range(3)]
    assert [await job.result(20) for job in jobs] == [["timeout", "group"]] * 3


async def _raise(error):
    raise error


async def test_renamed_handler_still_runs_jobs_of_its_old_name(rig):
    @rig.q.handle("new", queue="q", aliases=("old",))
    async def handler():
        return "ran"

    rig.worker()
    assert await (await rig.q.enqueue("old", queue="q")).result(20) == "ran"


async def test_renamed_handler_finds_what_is_left_in_the_queue_of_its_old_name(rig):
    """That of a handler without a queue of its own is called as it is."""
    left = await rig.q.enqueue("old", 1)
    assert left.queue == "old"

    @rig.q.handle("new", aliases=("old",))
    async def handler(ctx):
        return ctx.job.name

    made = await handler.enqueue(2)
    rig.q.start_worker()
    assert [await job.result(20) for job in (left, made)] == ["old", "new"]


async def test_process_that_dies_fails_its_run_and_names_the_signal(rig):
    handler = rig.q.handle("p", elsewhere.leave, queue="q", mode="process", max_retries=0)
    rig.worker(concurrency=3)
    real_time = str(signal.SIGRTMIN + 6)
    jobs = [await handler.enqueue(how) for how in ("SIGSEGV", "SIGKILL", real_time, "os._exit")]
    assert await rig.ended(*jobs) == ["dead"] * 4
    told = [(await rig.view(job)).errors[0]["message"] for job in jobs]
    ends = (
        "ended by signal SIGSEGV",
        "ended by signal SIGKILL",
        f"ended by signal {real_time}",
        "ended with exit code 7",
    )
    assert [end in text for end, text in zip(ends, told, strict=True)] == [True] * 4
    with pytest.raises(JobDead):
        await jobs[0].result(20)


@pytest.mark.parametrize("kind", ["thread", "process"])
async def test_run_that_could_not_begin_is_put_off_and_costs_no_attempt(still, kind, monkeypatch):
    """No thread to be had, no process to be started: the machine's trouble burns no jobs."""
    handler = still.q.handle("h", elsewhere.add, queue="q", mode=kind, max_retries=0)
    with monkeypatch.context() as broken:
        if kind == "process":
            broken.setattr(sys, "executable", str(Path(__file__).with_name("gone")))
        else:
            broken.setattr(threading.Thread, "start", _no_thread_for_handlers(threading.Thread.start))
        worker = still.worker()
        job = await handler.enqueue(1, 2)
        told = await still.told.first("worker:error")
        assert f"no {kind} can be started" in told["error"]
        await still.told.first("job:snoozed", job.id)
        view = await still.view(job)
        assert (view.status, view.attempt, view.reason) == ("scheduled", 0, "its run could not begin")
    await still.advance(1)
    assert await job.result(20) == 3
    assert (await still.view(job)).attempt == 1
    assert worker.failure is None


def _no_thread_for_handlers(really_start):
    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("psyqueue-w1-"):
            raise RuntimeError("can't start new thread")
        really_start(thread)

    return start


async def test_run_that_could_not_begin_is_put_off_without_a_worker_too(rig, monkeypatch):
    handler = rig.q.handle("h", elsewhere.add, queue="q", mode="process", max_retries=0)
    job = await handler.enqueue(1, 2)
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", str(Path(__file__).with_name("gone")))
        assert await rig.q.process_next("q")
    view = await rig.view(job)
    assert (view.status, view.attempt, view.reason) == ("scheduled", 0, "its run could not begin")
