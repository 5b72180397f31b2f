"""huey on SQLite with its own consumer and threads. It deletes a job when it takes it: there is no ack to wait for.

huey leaves `synchronous` to SQLite, which is FULL; NORMAL is not among its options and is set on its connections here.
"""

from __future__ import annotations

import logging
import threading
import time
from importlib import import_module
from typing import Any

from benchmarks.machine import Window
from benchmarks.peers import children
from benchmarks.peers.figures import GAP_S, LIMIT_S, enqueue_one_by_one, idle_cpu, quantiles
from benchmarks.spec import Facts, Spec

POLL = {"initial_delay": 0.01, "max_delay": 0.05, "backoff": 1.0}
"""How its threads poll: more often costs more CPU at rest, less often more latency."""


class Counter:
    """What the handler does, and when it did it first and last."""

    def __init__(self, stop_after: int) -> None:
        self.stop_after = stop_after
        self.count = 0
        self.first_s = 0.0
        self.last_s = 0.0
        self.late_s: list[float] = []
        self.done = threading.Event()
        self._mutex = threading.Lock()

    def __call__(self, payload: dict[str, Any]) -> None:
        now_s = time.monotonic()
        with self._mutex:
            self.first_s = self.first_s or now_s
            self.count += 1
            if "sent_s" in payload:
                self.late_s.append(now_s - payload["sent_s"])
            if self.count == self.stop_after:
                self.last_s = now_s
                self.done.set()


def make(spec: Spec, *, is_loose: bool = False) -> Any:
    """`is_loose`: no fsync at all, for what is not measured."""
    logging.disable(logging.CRITICAL)
    storage: Any = import_module("huey.storage").SqliteStorage
    level = "OFF" if is_loose else spec.durability.upper()

    class Storage(storage):  # type: ignore[misc]
        def _create_connection(self) -> Any:
            connection = super()._create_connection()
            connection.execute(f"PRAGMA synchronous = {level}")
            return connection

    file = str(spec.place / "huey.db")
    return import_module("huey").Huey("q", storage_class=Storage, filename=file, results=False)


def handler(huey: Any, counter: Counter) -> Any:
    """Registered under one name in every process."""

    def noop(payload: dict[str, Any]) -> None:
        counter(payload)

    return huey.task(name="noop")(noop)


def start(huey: Any, spec: Spec) -> None:
    huey.create_consumer(workers=spec.threads, worker_type="thread", periodic=False, **POLL).start()


def preload(spec: Spec) -> Facts:
    send = handler(make(spec, is_loose=True), Counter(0))
    for i in range(spec.n):
        send({"i": i})
    return {"value": spec.n}


def process(spec: Spec) -> Facts:
    huey, counter = make(spec), Counter(spec.n)
    handler(huey, counter)
    with Window() as window:
        start(huey, spec)
        if not counter.done.wait(LIMIT_S):
            raise TimeoutError(f"{counter.count} of {spec.n} after {LIMIT_S} s")
    return window.rate(spec.n, counter.last_s - counter.first_s) | {"threads": spec.threads}


def enqueue(spec: Spec) -> Facts:
    send = handler(make(spec), Counter(0))
    return enqueue_one_by_one(lambda i: send({"i": i}), spec.n)


def latency(spec: Spec) -> Facts:
    return _latency(spec, is_between=False)


def latency_between(spec: Spec) -> Facts:
    return _latency(spec, is_between=True)


def _latency(spec: Spec, *, is_between: bool) -> Facts:
    huey, counter = make(spec), Counter(spec.n)
    send = handler(huey, counter)
    start(huey, spec)
    time.sleep(0.5)
    with Window() as window:
        if is_between:
            children.run(spec, "produce")
        else:
            _send_marks(send, spec.n)
        if not counter.done.wait(LIMIT_S):
            raise TimeoutError(f"{counter.count} of {spec.n} after {LIMIT_S} s")
    idle = idle_cpu(spec.idle_s)
    return quantiles(counter.late_s) | idle | {"threads": spec.threads} | window.facts()


def _send_marks(send: Any, count: int) -> None:
    for _ in range(count):
        time.sleep(GAP_S)
        send({"sent_s": time.monotonic()})


def produce(spec: Spec) -> Facts:
    """The other process of W3."""
    _send_marks(handler(make(spec), Counter(0)), spec.n)
    return {"value": spec.n}
