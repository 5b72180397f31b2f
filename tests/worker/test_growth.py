"""A worker that runs for months: nothing in it grows with the number of jobs, nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import tracemalloc
import types
import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from psyqueue import Kernel, PsyQueue
from psyqueue.backend import Delivery, Fetch, Keep, Op, Settled, SettleReply
from psyqueue.backends import memory
from psyqueue.kernel import aio, failures
from psyqueue.kernel.run import Run
from psyqueue.kernel.worker import Worker
from worker import process_handlers as elsewhere
from worker.rig import a_moment, soon, tasks_of_workers, until


class Endless:
    """A plugin that puts a store of its own in place of the hot path.

    Its deliveries come from nowhere, and are forgotten when they are settled: what grows now grows in the worker.
    """

    name = "endless"

    def __init__(self) -> None:
        self.goal = self.given = self.ended = 0
        self.reached = asyncio.Event()

    def init(self, kernel: Kernel) -> None:
        kernel.wrap_backend(lambda inner: _EndlessStore(inner, self))

    async def run(self, worker: Worker, count: int) -> None:
        """So many more jobs, to their end."""
        self.goal += count
        self.reached.clear()
        worker._look_again()
        await soon(self.reached.wait(), 100)
        await until(lambda: worker.health()["held"] == 0 and worker._is_resting)

    def delivery(self) -> Delivery:
        self.given += 1
        return Delivery(
            id=f"j{self.given}", queue="q", name="h", payload=b'{"n":1}', cold=b"{}", completion_token="t", fence=1,
            attempt=1, lost=0, max_retries=3, priority=0, lane="", created_at_ms=0, started_at_ms=0, run_at_ms=0,
        )  # fmt: skip


class _EndlessStore:
    def __init__(self, inner: Any, plan: Endless) -> None:
        self._inner = inner
        self._plan = plan

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def settle(self, op: Op, session_id: str, outcomes: Sequence[Any], fetch: Fetch | None = None) -> SettleReply:
        await asyncio.sleep(0)
        plan = self._plan
        plan.ended += sum(not isinstance(outcome, Keep) for outcome in outcomes)
        if plan.ended >= plan.goal:
            plan.reached.set()
        count = min(fetch.count, plan.goal - plan.given) if fetch is not None else 0
        return SettleReply(
            tuple(Settled(outcome.job_id, "ok", "completed") for outcome in outcomes),
            tuple(plan.delivery() for _ in range(count)),
            more=plan.given < plan.goal,
        )


def register(q: PsyQueue, kind: str) -> None:
    if kind == "plain":

        @q.handle("h", queue="q")
        async def plain(n: int):
            return n
    elif kind == "all it can":

        @q.handle("h", queue="q", timeout="1h")
        async def busy(ctx, n: int):
            ctx.progress(n)
            ctx.state["n"] = n
            ctx.enqueue("after", {"n": n})
            await asyncio.sleep(0)
            return {"n": n}
    elif kind == "thread":

        @q.handle("h", queue="q")
        def in_a_thread(n: int):
            return n
    elif kind == "failing":

        @q.handle("h", queue="q")
        async def failing(n: int):
            raise ValueError(n)
    elif kind == "timing out":

        @q.handle("h", queue="q", timeout=0.001)
        async def late(n: int):
            await asyncio.Event().wait()


def alive_objects() -> Counter[str]:
    """Of asyncio, of psyqueue and of Python's own machinery, by kind."""
    gc.collect()
    found: Counter[str] = Counter()
    for each in gc.get_objects():
        kind = type(each)
        module = str(kind.__module__)  # a type made in C may have another thing by that name
        if module.startswith(("psyqueue", "asyncio", "_asyncio", "_contextvars")) or kind in MACHINERY:
            found[f"{module}.{kind.__qualname__}"] += 1
    return found


MACHINERY = (types.FrameType, types.TracebackType, types.CoroutineType, types.FunctionType, dict, list, tuple)


@pytest.mark.parametrize(
    ("kind", "count"),
    [("plain", 20_000), ("all it can", 3_000), ("thread", 3_000), ("failing", 3_000), ("timing out", 500)],
)
async def test_nothing_in_the_worker_grows_with_the_jobs_it_ran(monkeypatch, kind, count):
    from psyqueue.kernel import slots

    # The timer that looks after a stopped run holds it for this long.
    monkeypatch.setattr(slots, "ABANDON_MS", 20)
    endless = Endless()
    q = PsyQueue().use(memory()).use(endless)
    register(q, kind)
    async with q:
        worker = q.start_worker("q", concurrency=10)
        await endless.run(worker, count // 4)
        before = alive_objects()
        await endless.run(worker, count)
        for _ in range(20):
            await a_moment()
        after = alive_objects()
        await q.stop(grace=0)
    # Something may be on its way; a leak would show thousands.
    allowed = min(200, count // 4)
    assert {name: (before[name], found) for name, found in after.items() if found > before[name] + allowed} == {}


async def test_twenty_thousand_jobs_need_no_more_memory_than_the_first_thousands():
    endless = Endless()
    q = PsyQueue().use(memory()).use(endless)
    register(q, "plain")
    async with q:
        worker = q.start_worker("q", concurrency=10)
        tracemalloc.start()
        try:
            await endless.run(worker, 3_000)
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            await endless.run(worker, 20_000)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await q.stop(grace=0)
    assert after - before < 100_000, "5 bytes a job"


def runs_alive() -> set[Run]:
    return {each for each in gc.get_objects() if isinstance(each, Run)}


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
    of_others = runs_alive()  # a run that was stopped is looked after for a while, longer than the test that had it
    gc.disable()
    try:
        for name in ("async", "thread"):
            assert await rig.ended(await rig.q.enqueue(name)) == ["completed"]
            await until(lambda: worker._is_resting and worker.health()["held"] == 0)
            await until(lambda: alive[-1]() is None)
        assert runs_alive() <= of_others
    finally:
        gc.enable()


async def test_error_of_a_thread_does_not_keep_its_frames_alive(rig, monkeypatch):
    """Logged, but out of reach of pytest, which keeps each record for its report."""
    monkeypatch.setattr(failures.log, "propagate", False)
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


def connections_to_come(rig) -> int:
    """Those that a pool makes when it needs them, and keeps."""
    client = getattr(rig.store, "_client", None)
    return getattr(getattr(client, "_lender", None), "_left", 0)


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
        await worker.stop(grace="60s")

    def left() -> tuple[int, list[str], list[str], int]:
        loop = asyncio.get_running_loop()
        timers = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        ours = [handle for handle in timers if "psyqueue.kernel" in repr(handle) and "_beat" not in repr(handle)]
        tasks = tasks_of_workers()
        threads = sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("psyqueue-w"))
        return len(ours), tasks, threads, len(os.listdir("/proc/self/fd"))

    await work("first")
    await until(lambda: left()[1:3] == ([], []))
    before, spare = left(), connections_to_come(rig)
    owned = len(aio._owned)
    for n in range(3):
        await work(f"w{n}")
    await until(lambda: left()[1:3] == ([], []))
    await until(lambda: left()[3] <= before[3] + spare)
    assert left()[0] <= before[0]
    assert len(aio._owned) <= owned
