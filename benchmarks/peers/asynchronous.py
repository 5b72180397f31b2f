"""What asyncio queues have in common: how each kind of measurement drives them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from benchmarks.machine import Span, Window
from benchmarks.peers import children
from benchmarks.peers.figures import GAP_S, LIMIT_S, POLL_S, REST_S, WARM_UP, churned, idle_cpu
from benchmarks.peers.payload import payload
from benchmarks.peers.recorder import READY, Recorder
from benchmarks.servers import counters, old_snapshot
from benchmarks.spec import BULK_SIZE, Facts, Spec

T = TypeVar("T")
PRELOADERS = 100


class Queue(Protocol):
    """One queue of one process. `put_many` is there for those that have one call for many jobs.

    `is_settled` is there for those that give no sign of single acks: it tells whether nothing is left to be done.
    """

    async def open(self) -> None: ...
    async def put(self, payload: dict[str, Any]) -> None: ...
    async def work(self, recorder: Recorder) -> None:
        """Runs a worker until it is cancelled or the process ends."""


class Kinds:
    def __init__(self, make: Callable[[Spec], Queue]) -> None:
        self._make = make
        self.footprint = children.footprint

    def preload(self, spec: Spec) -> Facts:
        return run(self._preload(spec), spec)

    def process(self, spec: Spec) -> Facts:
        return run(self._process(spec), spec)

    def enqueue(self, spec: Spec) -> Facts:
        return run(self._enqueue(spec), spec)

    def bulk(self, spec: Spec) -> Facts:
        return run(self._bulk(spec), spec)

    def churn(self, spec: Spec) -> Facts:
        return run(self._churn(spec), spec)

    def latency_between(self, spec: Spec) -> Facts:
        return run(self._latency(spec), spec)

    def produce(self, spec: Spec) -> Facts:
        return run(self._produce(spec), spec)

    async def _preload(self, spec: Spec) -> Facts:
        queue = self._make(spec)
        await queue.open()
        await self._put_all(queue, spec)
        return {"value": spec.n}

    async def _put_all(self, queue: Any, spec: Spec) -> None:
        step = BULK_SIZE if hasattr(queue, "put_many") else PRELOADERS
        for start in range(0, spec.n, step):
            payloads = [payload(spec, i) for i in range(start, min(spec.n, start + step))]
            if hasattr(queue, "put_many"):
                await queue.put_many(payloads)
            else:
                await asyncio.gather(*map(queue.put, payloads))

    async def _process(self, spec: Spec) -> Facts:
        done = asyncio.Event()
        recorder, queue, server = Recorder(spec, done.set), self._make(spec), counters(spec)
        await queue.open()
        with Window() as window:
            await self._worked(queue, recorder, done, spec)
        return server.per_job(spec.n) | recorder.rate(window)

    async def _worked(self, queue: Queue, recorder: Recorder, done: asyncio.Event, spec: Spec) -> None:
        """A worker from its start until all is acked; then it is told to end, which the caller need not wait for."""
        ran = asyncio.Event()
        recorder.on_ran = ran.set
        worker = asyncio.ensure_future(queue.work(recorder))
        if hasattr(queue, "is_settled"):
            await reached(ran, worker, lambda: f"{recorder.started} of {spec.n} started")
            while not await queue.is_settled():  # noqa: ASYNC110 - the server knows, and tells nobody
                await asyncio.sleep(POLL_S)
            recorder.ack_all()
        await reached(done, worker, lambda: f"{recorder.acked} of {spec.n} acks")
        worker.cancel()
        self._worker = worker

    async def _churn(self, spec: Spec) -> Facts:
        """Rounds of enqueueing all of one, then working it off; what is measured is the second half."""
        queue: Any = self._make(spec)
        await queue.open()
        rates: list[float] = []
        one = replace(spec, n=spec.n // spec.rounds)
        with Window() as window, old_snapshot(spec):
            began_s = time.monotonic()
            while len(rates) < spec.rounds and not (spec.limit_s and time.monotonic() - began_s > spec.limit_s):
                await self._put_all(queue, one)
                done = asyncio.Event()
                recorder = Recorder(one, done.set)
                with Window() as round_window:
                    await self._worked(queue, recorder, done, one)
                rates.append(recorder.rate(round_window)["value"])
                await asyncio.wait((self._worker,), timeout=LIMIT_S)
        return churned(rates, one.n, one.n * len(rates)) | window.facts()

    async def _enqueue(self, spec: Spec) -> Facts:
        queue = self._make(spec)
        await queue.open()

        async def caller(count: int) -> None:
            for i in range(count):
                await queue.put(payload(spec, i))

        await caller(WARM_UP)
        server, span = counters(spec), Span(spec.server_pid)
        with Window() as window:
            span.begin()
            if spec.callers == 1:
                await caller(spec.n)
            else:
                await asyncio.gather(*(caller(spec.n // spec.callers) for _ in range(spec.callers)))
            span.end()
        return server.per_job(spec.n) | span.rate(spec.n) | window.facts()

    async def _bulk(self, spec: Spec) -> Facts:
        queue: Any = self._make(spec)
        await queue.open()
        await queue.put_many([payload(spec, i) for i in range(WARM_UP)])
        span = Span(spec.server_pid)
        with Window() as window:
            span.begin()
            for start in range(0, spec.n, BULK_SIZE):
                await queue.put_many([payload(spec, i) for i in range(start, min(spec.n, start + BULK_SIZE))])
            span.end()
        return span.rate(spec.n) | window.facts()

    async def _latency(self, spec: Spec) -> Facts:
        done, ready = asyncio.Event(), asyncio.Event()
        recorder, queue = Recorder(spec, done.set), self._make(spec)
        recorder.on_ready = ready.set
        if hasattr(queue, "is_settled"):
            recorder.on_ran = recorder.ack_all  # that it ran is all that is asked for
        await queue.open()
        worker = asyncio.ensure_future(queue.work(recorder))
        await queue.put({"i": READY})
        await reached(ready, worker, lambda: "the worker is not there")
        await asyncio.sleep(REST_S)
        with Window() as window:
            producer = await asyncio.create_subprocess_exec(
                *children.command(spec, "produce"), stdout=asyncio.subprocess.DEVNULL
            )
            await producer.wait()
            await reached(done, worker, lambda: f"{recorder.acked} of {spec.n} acks")
        idle = await asyncio.to_thread(idle_cpu, spec.idle_s, server_pid=spec.server_pid)
        return recorder.latency() | idle | window.facts()

    async def _produce(self, spec: Spec) -> Facts:
        queue = self._make(spec)
        await queue.open()
        for i in range(spec.n):
            await asyncio.sleep(GAP_S)
            await queue.put({"i": i, "sent_s": time.monotonic()})
        return {"value": spec.n}


def run(main: Coroutine[Any, Any, T], spec: Spec) -> T:
    """The loop stays open: what a queue leaves running may take its cancellation ill, and the process ends anyway."""
    return asyncio.Runner(loop_factory=_loop_factory(spec)).run(main)


def _loop_factory(spec: Spec) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if spec.loop == "asyncio":
        return None
    import uvloop

    return uvloop.new_event_loop


async def reached(event: asyncio.Event, worker: asyncio.Future[None], state: Callable[[], str]) -> None:
    """Raises what ended the worker before that, TimeoutError that tells the state."""
    waiter = asyncio.ensure_future(event.wait())
    await asyncio.wait((waiter, worker), timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
    if waiter.done():
        return
    waiter.cancel()
    if worker.done():
        raise RuntimeError(f"the worker ended: {state()}") from worker.exception()
    raise TimeoutError(f"{state()} after {LIMIT_S} s")
