"""litequeue with a loop by hand, as its manual shows: pop, run, done, in one thread; it has no worker of its own.

It sets WAL and NORMAL itself; FULL is set on its connection. `prune` now and then keeps finished jobs out of its way.
"""

from __future__ import annotations

import json
import time
from importlib import import_module
from typing import Any

from benchmarks.machine import Window
from benchmarks.peers.figures import enqueue_one_by_one
from benchmarks.spec import Facts, Spec

JOBS_BETWEEN_PRUNES = 1_000


def make(spec: Spec) -> Any:
    queue = import_module("litequeue").LiteQueue(str(spec.place / "litequeue.db"))
    queue.conn.execute(f"PRAGMA synchronous = {spec.durability.upper()}")
    return queue


def preload(spec: Spec) -> Facts:
    queue = make(spec)
    with queue.transaction():
        for i in range(spec.n):
            queue.put(json.dumps({"i": i}))
    queue.close()
    return {"value": spec.n}


def process(spec: Spec) -> Facts:
    queue, first_s, count = make(spec), 0.0, 0
    with Window() as window:
        while (found := queue.pop()) is not None:
            first_s = first_s or time.monotonic()
            json.loads(found.data)
            queue.done(found.message_id)
            count += 1
            if count % JOBS_BETWEEN_PRUNES == 0:
                queue.prune()
        seconds = time.monotonic() - first_s
    assert count == spec.n, count
    return window.rate(spec.n, seconds)


def enqueue(spec: Spec) -> Facts:
    queue = make(spec)
    return enqueue_one_by_one(lambda i: queue.put(json.dumps({"i": i})), spec.n)
