"""A worker that runs for months: nothing in it grows with the number of jobs, nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections import Counter

import pytest

from psyqueue.kernel import aio
from psyqueue.kernel.run import Run
from worker import process_handlers as elsewhere
from worker.rig import Rig, until


async def runs(rig: Rig, count: int) -> None:
    """So many jobs, enqueued a few hundred at a time, all of them ended."""
    done = len(rig.told.events)
    for start in range(0, count, 500):
        await rig.q.enqueue_bulk([{"name": "h", "payload": {"n": start + n}} for n in range(min(500, count - start))])
        await until(lambda: rig.core.workers[0].health()["held"] == 0 and rig.core.workers[0]._is_resting)
    assert len(rig.told.events) == done, "nobody listens: events would be kept by the test itself"


def of_the_worker(rig: Rig) -> Counter[str]:
    """Objects of psyqueue and asyncio that are alive, the store's own apart."""
    gc.collect()
    ours = ("psyqueue.kernel", "psyqueue.outcome", "asyncio", "_asyncio", "_contextvars", "frame")
    found: Counter[str] = Counter()
    for each in gc.get_objects():
        kind = type(each)
        if kind.__module__.startswith(ours) or kind.__name__ in ("frame", "traceback", "coroutine", "Context"):
            found[f"{kind.__module__}.{kind.__qualname__}"] += 1
    return found


@pytest.mark.parametrize("kind", ["async", "thread", "failing"])
async def test_nothing_in_the_worker_grows_with_the_jobs_it_ran(store, tmp_path, kind):
    from psyqueue import PsyQueue
    from worker.conftest import _plugin
    from worker.rig import Faults, started

    rig = Rig.__new__(Rig)
    rig.faults = Faults()
    rig.q = PsyQueue().use(_plugin(store, tmp_path, test_clock=False)).use(rig.faults)
    rig.core = rig.q._core

    class Silent:
        events: list = []

    rig.told = Silent()  # type: ignore[assignment]

    if kind == "async":

        @rig.q.handle("h", queue="q")
        async def on_the_loop(ctx, n: int):
            ctx.progress(n)
            await asyncio.sleep(0)
            return {"n": n}
    elif kind == "thread":

        @rig.q.handle("h", queue="q")
        def in_a_thread(n: int):
            return {"n": n}
    else:

        @rig.q.handle("h", queue="q", max_retries=0)
        async def failing(n: int):
            raise ValueError(f"job {n}")

    async with started(rig):
        await rig.q.limits("q", retain_ended=("1ms", 0), retain_dead=("1ms", 0))
        rig.worker(concurrency=4, lease_ms=3_600_000)
        count = 2_000 if kind == "thread" else 4_000
        await runs(rig, count)
        rig.faults.args.clear()
        before = of_the_worker(rig)
        await runs(rig, count)
        rig.faults.args.clear()
        after = of_the_worker(rig)
    # A timer or two may be on its way; a leak would show thousands.
    grown = {name: (before[name], count) for name, count in after.items() if count > before[name] + 60}
    assert grown == {}


async def test_twenty_thousand_jobs_need_no_more_memory_than_two_thousand(tmp_path):
    """Measured by tracemalloc in the kernel's own modules, on a store that answers from nowhere."""
    import tracemalloc

    from psyqueue import PsyQueue
    from psyqueue.backend import Delivery, Settled, SettleReply
    from psyqueue.backends import memory
    from worker.rig import soon

    class Endless:
        """Gives deliveries that it forgets at once."""

        name = "endless"

        def init(self, kernel):
            kernel.wrap_backend(self.wrap)

        def wrap(self, inner):
            outer = self
            self.ended, self.number, self.goal, self.reached = 0, 0, 0, asyncio.Event()

            class Store:
                def __getattr__(self, name):
                    return getattr(inner, name)

                async def settle(self, op, session_id, outcomes, fetch=None):
                    await asyncio.sleep(0)
                    outer.ended += len(outcomes)
                    if outer.ended >= outer.goal:
                        outer.reached.set()
                    count = min(fetch.count, outer.goal - outer.number) if fetch is not None else 0
                    return SettleReply(
                        tuple(Settled(outcome.job_id, "ok", "completed") for outcome in outcomes),
                        tuple(outer.delivery() for _ in range(count)),
                        more=outer.number < outer.goal,
                    )

            return Store()

        def delivery(self):
            self.number += 1
            return Delivery(
                id=f"j{self.number}", queue="q", name="h", payload=b'{"n":1}', cold=b"{}", completion_token="t",
                fence=1, attempt=1, lost=0, max_retries=3, priority=0, lane="", created_at_ms=0, started_at_ms=0,
                run_at_ms=0,
            )  # fmt: skip

        async def run(self, count):
            self.goal += count
            self.reached.clear()
            worker._look_again()
            await soon(self.reached.wait(), 100)

    endless = Endless()
    q = PsyQueue().use(memory()).use(endless)

    @q.handle("h", queue="q")
    async def handler(ctx, n: int):
        return n

    async with q:
        worker = q.start_worker("q", concurrency=10)
        await endless.run(2_000)
        gc.collect()
        tracemalloc.start()
        try:
            await endless.run(2_000)
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            await endless.run(20_000)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await q.stop(grace=0)
    assert after - before < 100_000, f"{(after - before) / 20_000:.1f} bytes a job"


async def test_runs_and_results_are_freed_when_they_are_settled(rig):
    """No ring of references: they go at once, not with the garbage collector."""
    alive: list[weakref.ref] = []

    class Result(dict):
        __slots__ = ("__weakref__",)

    def made() -> Result:
        result = Result(n=1)
        alive.append(weakref.ref(result))
        return result

    @rig.q.handle("async", queue="q")
    async def on_the_loop(ctx):
        return made()

    @rig.q.handle("thread", queue="q")
    def in_a_thread(ctx):
        return made()

    worker = rig.worker(concurrency=1)
    gc.collect()
    gc.disable()
    try:
        for name in ("async", "thread"):
            assert await rig.ended(await rig.q.enqueue(name)) == ["completed"]
            await until(lambda: worker._is_resting and worker.health()["held"] == 0)
            await until(lambda: alive[-1]() is None)
        assert [each for each in gc.get_objects() if isinstance(each, Run)] == []
    finally:
        gc.enable()


async def test_error_of_a_thread_does_not_keep_its_frames_alive(rig):
    alive: list[weakref.ref] = []

    class Big:
        pass

    @rig.q.handle("thread", queue="q", max_retries=0)
    def in_a_thread():
        big = Big()
        alive.append(weakref.ref(big))
        raise ValueError("no")

    worker = rig.worker(concurrency=1)
    gc.collect()
    gc.disable()
    try:
        assert await rig.ended(await rig.q.enqueue("thread")) == ["dead"]
        await until(lambda: worker._is_resting)
        await until(lambda: alive[0]() is None)
    finally:
        gc.enable()


async def test_stopped_worker_leaves_no_timer_task_thread_process_or_descriptor(rig):
    @rig.q.handle("async", queue="q", timeout="1h")
    async def on_the_loop(n: int):
        await asyncio.sleep(0)

    @rig.q.handle("thread", queue="q", timeout="1h")
    def in_a_thread(n: int): ...

    rig.q.handle("process", elsewhere.pid, queue="q", mode="process", timeout="1h")

    async def work(name: str) -> None:
        worker = rig.worker(name=name, concurrency=3)
        jobs = await rig.q.enqueue_bulk([{"name": kind, "payload": {"n": 1}} for kind in ("async", "thread")])
        jobs.append(await rig.q.enqueue("process"))
        assert await rig.ended(*jobs) == ["completed"] * 3
        await worker.stop(60_000)

    def left() -> tuple[int, list[str], list[str], int]:
        loop = asyncio.get_running_loop()
        timers = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        ours = [handle for handle in timers if "psyqueue.kernel" in repr(handle) and "_beat" not in repr(handle)]
        tasks = sorted(task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("psyqueue"))
        threads = sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("psyqueue-w"))
        return len(ours), tasks, threads, len(os.listdir("/proc/self/fd"))

    await work("first")
    await until(lambda: left()[1:3] == ([], []))
    before = left()
    owned = len(aio._owned)
    for n in range(3):
        await work(f"w{n}")
    await until(lambda: left()[1:3] == ([], []))
    await until(lambda: left()[3] <= before[3])
    assert left()[0] <= before[0]
    assert len(aio._owned) <= owned
