"""psyqueue on every store, through its public names, with its default settings.

The one exception are the waits for the lock of a SQLite file, which have no public sign.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from typing import Literal, TypeAlias

from benchmarks.machine import Span, Window, rss_mb
from benchmarks.peers import children
from benchmarks.peers.asynchronous import run
from benchmarks.peers.figures import GAP_S, LIMIT_S, REST_S, WARM_UP, churned, idle_cpu, quantiles
from benchmarks.peers.payload import of_possible, payload, wait_s
from benchmarks.peers.watch import Watch
from benchmarks.servers import counters, old_snapshot
from benchmarks.spec import BULK_SIZE, Facts, Spec

from psyqueue import Handler, PsyQueue
from psyqueue.backends import sqlite
from psyqueue.backends._sqlite.file_lock import FileLock

footprint = children.footprint
Noop: TypeAlias = Handler[..., None]


async def noop(i: int, text: str = "") -> None:
    pass


def make(spec: Spec, watch: Watch | None = None) -> tuple[PsyQueue, Noop]:
    q = _at(spec)
    if watch is not None:
        q.use(watch)

    async def wait(i: int) -> None:
        await asyncio.sleep(wait_s(spec, i))

    return q, q.handle("noop", wait if spec.wait_ms_max else noop)


def _at(spec: Spec) -> PsyQueue:
    if spec.store != "sqlite":
        return PsyQueue.from_url(spec.url)
    durability: Literal["full", "normal"] = "full" if spec.durability == "full" else "normal"
    return PsyQueue().use(sqlite(path=spec.place / "jobs.db", durability=durability))


async def enqueue_in_bulk(q: PsyQueue, handler: Noop, spec: Spec, n: int) -> None:
    for start in range(0, n, BULK_SIZE):
        await q.enqueue_bulk([handler.build(**payload(spec, i)) for i in range(start, min(n, start + BULK_SIZE))])


def preload(spec: Spec) -> Facts:
    async def main() -> Facts:
        q, handler = make(replace(spec, durability="normal"))
        async with q:
            await enqueue_in_bulk(q, handler, spec, spec.n)
        return {"value": spec.n}

    return run(main(), spec)


# ── W1, W4, W5, memory, calls ─────────────────────────────────────────────────────────────────────────────────────────
async def drain(q: PsyQueue, spec: Spec, watch: Watch) -> None:
    """One worker, until the watch has seen enough. Raises what ended the worker before that, TimeoutError."""
    worker = q.start_worker(concurrency=spec.concurrency)
    ends = {asyncio.ensure_future(watch.done.wait()), asyncio.ensure_future(worker.wait())}
    ended, others = await asyncio.wait(ends, timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
    for end in (*others, *ended):
        end.cancel()
    if not ended:
        last_s = time.monotonic() - watch.last_s
        raise TimeoutError(f"{watch.acked} jobs were acked in {LIMIT_S} s, the last one {last_s:.1f} s ago")
    if not watch.done.is_set():
        raise RuntimeError(f"worker ended after {watch.acked} jobs: {worker.failure!r}") from worker.failure
    if watch.errors:
        raise RuntimeError(f"{len(watch.errors)} store errors: {watch.errors[0]}")


def process(spec: Spec) -> Facts:
    return run(_process(spec), spec)


async def _process(spec: Spec) -> Facts:
    watch = Watch(stop_after=spec.n, server_pid=spec.server_pid)
    q, _ = make(spec, watch)
    async with q:
        server = counters(spec) if spec.url else None
        with Window() as window:
            await drain(q, spec, watch)
    found = watch.span.rate(watch.acked_in_span) | {
        "acked": watch.acked_in_span,
        "calls_per_job": round(watch.calls["settle"] / watch.acked, 4),
        "rss_mb": rss_mb(),
        **(server.per_job(watch.acked) if server else {}),
        **window.facts(),
    }
    return found | {"of_possible": of_possible(spec, found["value"])} if spec.wait_ms_max else found


def churn(spec: Spec) -> Facts:
    return run(_churn(spec), spec)


async def _churn(spec: Spec) -> Facts:
    """Rounds of enqueueing all of one, then working it off by a new worker; what is measured is the second half."""
    rates: list[float] = []
    ran, size = 0, spec.n // spec.rounds
    with Window() as window, old_snapshot(spec):
        began_s = time.monotonic()
        while len(rates) < spec.rounds and not (spec.limit_s and time.monotonic() - began_s > spec.limit_s):
            watch = Watch(stop_after=size)
            q, handler = make(spec, watch)
            async with q:
                await enqueue_in_bulk(q, handler, spec, size)
                await drain(q, spec, watch)
            rates.append(watch.span.rate(watch.acked_in_span)["value"])
            ran += watch.acked
    return churned(rates, size, ran) | window.facts()


def memory(spec: Spec) -> Facts:
    return run(_memory(spec), spec)


async def _memory(spec: Spec) -> Facts:
    """RSS of the worker, at every tenth of the jobs that pass through it."""
    samples: list[float] = []
    tenth = spec.n // 10

    def sample(acked: int) -> None:
        while len(samples) < acked // tenth:
            samples.append(rss_mb())

    watch = Watch(stop_after=spec.n, on_acked=sample)
    q, _ = make(spec, watch)
    async with q:
        with Window() as window:
            await drain(q, spec, watch)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1_024) / 1e6
    growth = samples[-1] / samples[0] - 1 if samples[0] else 0.0
    return {
        "value": samples[-1],
        "rss_mb": samples,
        "peak_mb": round(peak_mb, 1),
        "growth": round(growth, 3),
        "jobs_per_s": watch.span.rate(watch.acked_in_span)["value"],
        **window.facts(),
    }


def calls(spec: Spec) -> Facts:
    return run(_calls(spec), spec)


async def _calls(spec: Spec) -> Facts:
    """Calls of any verb of the store per job, under load; where there is a server, what it counted."""
    watch = Watch(stop_after=spec.n)
    q, _ = make(spec, watch)
    async with q:
        watch.calls.clear()
        server = counters(spec) if spec.url else None
        with Window() as window:
            await drain(q, spec, watch)
        counted = dict(watch.calls)
        served = server.per_job(spec.n) if server else {}
    return {"value": round(sum(counted.values()) / spec.n, 4), "calls": counted, **served, **window.facts()}


# ── W2 ────────────────────────────────────────────────────────────────────────────────────────────────────────────────
def enqueue(spec: Spec) -> Facts:
    return run(_enqueue(spec), spec)


async def _enqueue(spec: Spec) -> Facts:
    watch = Watch()
    q, handler = make(spec, watch)

    async def caller(count: int) -> None:
        for i in range(count):
            await handler.enqueue(i)

    async with q:
        await caller(WARM_UP)
        watch.calls.clear()
        server, span = counters(spec) if spec.url else None, Span(spec.server_pid)
        with Window() as window:
            span.begin()
            if spec.callers == 1:
                await caller(spec.n)
            else:
                await asyncio.gather(*(caller(spec.n // spec.callers) for _ in range(spec.callers)))
            span.end()
        calls_per_job = round(watch.calls["enqueue"] / spec.n, 4)
        served = server.per_job(spec.n) if server else {}
    return span.rate(spec.n) | {"calls_per_job": calls_per_job, **served, **window.facts()}


def bulk(spec: Spec) -> Facts:
    return run(_bulk(spec), spec)


async def _bulk(spec: Spec) -> Facts:
    q, handler = make(spec)
    span = Span(spec.server_pid)
    async with q:
        await enqueue_in_bulk(q, handler, spec, WARM_UP)
        with Window() as window:
            span.begin()
            await enqueue_in_bulk(q, handler, spec, spec.n)
            span.end()
    return span.rate(spec.n) | window.facts()


# ── W3 ────────────────────────────────────────────────────────────────────────────────────────────────────────────────
def latency(spec: Spec) -> Facts:
    return run(_latency(spec, is_between=False), spec)


def latency_between(spec: Spec) -> Facts:
    return run(_latency(spec, is_between=True), spec)


async def _latency(spec: Spec, *, is_between: bool) -> Facts:
    late_s: list[float] = []
    everything = asyncio.Event()
    q, _ = make(spec)

    @q.handle("mark")
    async def mark(sent_s: float) -> None:
        late_s.append(time.monotonic() - sent_s)
        if len(late_s) == spec.n:
            everything.set()

    async with q:
        q.start_worker(concurrency=spec.concurrency)
        await asyncio.sleep(REST_S)
        with Window() as window:
            if is_between:
                producer = await asyncio.create_subprocess_exec(
                    *children.command(spec, "produce"), stdout=asyncio.subprocess.DEVNULL
                )
                await producer.wait()
            else:
                await _send_marks(q, spec.n)
            await asyncio.wait_for(everything.wait(), LIMIT_S)
        idle = await asyncio.to_thread(idle_cpu, spec.idle_s, server_pid=spec.server_pid)
    return quantiles(late_s) | idle | window.facts()


async def _send_marks(q: PsyQueue, count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(GAP_S)
        await q.enqueue("mark", {"sent_s": time.monotonic()}, queue="mark")


def produce(spec: Spec) -> Facts:
    return run(_produce(spec), spec)


async def _produce(spec: Spec) -> Facts:
    """The other process of W3."""
    q, _ = make(spec)
    async with q:
        await asyncio.sleep(0.2)
        await _send_marks(q, spec.n)
    return {"value": spec.n}


# ── W6 ────────────────────────────────────────────────────────────────────────────────────────────────────────────────
def share(spec: Spec) -> Facts:
    """Several worker processes on one file, let go at the same moment."""
    command = children.command(spec, "take_part")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, **pipes) for _ in range(spec.processes)]  # type: ignore[call-overload]
    with contextlib.ExitStack() as stack:
        for worker in workers:
            stack.enter_context(worker)
            worker.stdout.readline()  # it is ready
        with Window() as window:
            for worker in workers:
                worker.stdin.write("go\n")
                worker.stdin.flush()
            parts = [json.loads(worker.stdout.readline()) for worker in workers]
    acked = [part["acked"] for part in parts]
    if sum(acked) != spec.stock:
        raise RuntimeError(f"{sum(acked)} of {spec.stock} jobs were acked: {acked}")
    first_s = min(part["first_s"] for part in parts if part["acked"])
    seconds = max(part["last_s"] for part in parts) - first_s
    fair = spec.stock / spec.processes
    return {
        "value": round(spec.stock / seconds),
        "seconds": round(seconds, 3),
        "shares": acked,
        "share_off": round(max(abs(count - fair) for count in acked) / fair, 3),
        "call_ms_max": max(part["call_ms_max"] for part in parts),
        "lock_wait_ms_max": max(part["lock_wait_ms_max"] for part in parts),
        "locked": sum(part["locked"] for part in parts),
        **window.facts(),
    }


def take_part(spec: Spec) -> Facts:
    """One of the processes of W6: says that it is ready, and begins when it is told."""
    return run(_take_part(spec), spec)


async def _take_part(spec: Spec) -> Facts:
    watch = Watch()
    lock_waits_s = time_lock_waits()
    q, _ = make(spec, watch)
    async with q:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await drain(q, spec, watch)
    return {
        "acked": watch.acked,
        "first_s": watch.first_s,
        "last_s": watch.last_s,
        "call_ms_max": round(watch.call_s_max * 1000, 1),
        "lock_wait_ms_max": round(max(lock_waits_s) * 1000, 1),
        "locked": sum("locked" in error or "StoreBusy" in error for error in watch.errors),
    }


def time_lock_waits() -> list[float]:
    """Filled with every wait of the writer for its turn at the file: the one thing here that has no public sign."""
    waits_s: list[float] = []
    acquire = FileLock.acquire

    def timed(lock: FileLock) -> None:
        began_s = time.monotonic()
        acquire(lock)
        waits_s.append(time.monotonic() - began_s)

    setattr(FileLock, "acquire", timed)  # noqa: B010 - mypy takes no assignment to a method
    return waits_s
