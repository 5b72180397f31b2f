"""What queues with blocking calls have in common. Their workers may want the main thread, so another one waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.machine import Span, Window
from benchmarks.peers import children
from benchmarks.peers.figures import GAP_S, LIMIT_S, REST_S, WARM_UP, idle_cpu
from benchmarks.peers.payload import payload
from benchmarks.peers.recorder import READY, Recorder
from benchmarks.servers import counters
from benchmarks.spec import BULK_SIZE, Facts, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocking:
    """`work` takes the main thread and does not return; `wait`, in another one, gives the facts."""

    work: Callable[[], None]
    wait: Callable[[], Facts]


class Queue(Protocol):
    """One queue of one process. `put_many` is there for those that have one call for many jobs."""

    def open(self) -> None: ...
    def put(self, payload: dict[str, Any]) -> object: ...
    def work(self, recorder: Recorder) -> None:
        """Runs a worker until the process ends."""


class Kinds:
    def __init__(self, make: Callable[[Spec], Queue]) -> None:
        self._make = make
        self.footprint = children.footprint

    def preload(self, spec: Spec) -> Facts:
        queue: Any = self._opened(spec)
        if hasattr(queue, "put_many"):
            self._put_many(queue, spec, spec.n)
        else:
            self._put(queue, spec, spec.n)
        return {"value": spec.n}

    def process(self, spec: Spec) -> Blocking:
        done = threading.Event()
        recorder, queue, server = Recorder(spec, done.set), self._opened(spec), counters(spec)

        def wait() -> Facts:
            with Window() as window:
                _reached(done, lambda: f"{recorder.acked} of {spec.n} acks")
            return server.per_job(spec.n) | recorder.rate(window) | {"threads": spec.threads}

        return Blocking(work=lambda: queue.work(recorder), wait=wait)

    def enqueue(self, spec: Spec) -> Facts:
        queue = self._opened(spec)
        self._put(queue, spec, WARM_UP)
        server, span = counters(spec), Span(spec.server_pid)
        with Window() as window:
            span.begin()
            self._put(queue, spec, spec.n)
            span.end()
        return server.per_job(spec.n) | span.rate(spec.n) | window.facts()

    def bulk(self, spec: Spec) -> Facts:
        queue = self._opened(spec)
        self._put_many(queue, spec, WARM_UP)
        span = Span(spec.server_pid)
        with Window() as window:
            span.begin()
            self._put_many(queue, spec, spec.n)
            span.end()
        return span.rate(spec.n) | window.facts()

    def latency_between(self, spec: Spec) -> Blocking:
        done, ready = threading.Event(), threading.Event()
        recorder, queue = Recorder(spec, done.set), self._opened(spec)
        recorder.on_ready = ready.set

        def wait() -> Facts:
            queue.put({"i": READY})
            _reached(ready, lambda: "the worker is not there")
            time.sleep(REST_S)
            with Window() as window:
                children.run(spec, "produce")
                _reached(done, lambda: f"{recorder.acked} of {spec.n} acks")
            idle = idle_cpu(spec.idle_s, server_pid=spec.server_pid)
            return recorder.latency() | idle | {"threads": spec.threads} | window.facts()

        return Blocking(work=lambda: queue.work(recorder), wait=wait)

    def produce(self, spec: Spec) -> Facts:
        queue = self._opened(spec)
        for i in range(spec.n):
            time.sleep(GAP_S)
            queue.put({"i": i, "sent_s": time.monotonic()})
        return {"value": spec.n}

    def _opened(self, spec: Spec) -> Queue:
        queue = self._make(spec)
        queue.open()
        return queue

    def _put(self, queue: Queue, spec: Spec, n: int) -> None:
        for i in range(n):
            queue.put(payload(spec, i))

    def _put_many(self, queue: Any, spec: Spec, n: int) -> None:
        for start in range(0, n, BULK_SIZE):
            queue.put_many([payload(spec, i) for i in range(start, min(n, start + BULK_SIZE))])


def _reached(event: threading.Event, state: Callable[[], str]) -> None:
    if not event.wait(LIMIT_S):
        raise TimeoutError(f"{state()} after {LIMIT_S} s")
