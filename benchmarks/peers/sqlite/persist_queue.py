"""persist-queue's SQLiteAckQueue with a loop by hand: get, run, ack, in one thread; it has no worker of its own.

It sets WAL and leaves `synchronous` to SQLite, which is FULL; NORMAL is set on its connection. Clearing acked jobs now
and then, as its manual advises, keeps its dequeue from walking over all of them.
"""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

from benchmarks.machine import Window
from benchmarks.peers.figures import enqueue_one_by_one
from benchmarks.spec import Facts, Spec

JOBS_BETWEEN_CLEARS = 1_000


def make(spec: Spec, *, is_loose: bool = False) -> Any:
    """`is_loose`: no fsync at all, for what is not measured."""
    queue = import_module("persistqueue").SQLiteAckQueue(str(spec.place / "persist"), multithreading=True)
    # Its only door to the connection that writes.
    queue._putter.execute(f"PRAGMA synchronous = {'OFF' if is_loose else spec.durability.upper()}")  # noqa: SLF001
    return queue


def preload(spec: Spec) -> Facts:
    queue = make(spec, is_loose=True)
    for i in range(spec.n):
        queue.put({"i": i})
    queue.close()
    return {"value": spec.n}


def process(spec: Spec) -> Facts:
    queue, first_s = make(spec), 0.0
    with Window() as window:
        for count in range(1, spec.n + 1):
            found = queue.get(block=False, raw=True)
            first_s = first_s or time.monotonic()
            queue.ack(id=found["pqid"])
            if count % JOBS_BETWEEN_CLEARS == 0:
                queue.clear_acked_data(max_delete=JOBS_BETWEEN_CLEARS, keep_latest=0)
        seconds = time.monotonic() - first_s
    return window.rate(spec.n, seconds)


def enqueue(spec: Spec) -> Facts:
    queue = make(spec)
    return enqueue_one_by_one(lambda i: queue.put({"i": i}), spec.n)
