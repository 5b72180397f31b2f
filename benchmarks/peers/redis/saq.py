"""saq on uvloop. `after_process`, where the hook counts, comes after the job was finished in Redis.

Jobs are kept for no time (`ttl=-1`): keeping their results would cost it more.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

from benchmarks.peers.asynchronous import Kinds
from benchmarks.peers.payload import wait_s
from benchmarks.peers.recorder import Recorder
from benchmarks.spec import Spec


class Queue:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._queue: Any = import_module("saq").Queue.from_url(spec.url, max_concurrent_ops=max(20, spec.concurrency))

    async def open(self) -> None:
        await self._queue.connect()

    async def put(self, payload: dict[str, Any]) -> None:
        await self._queue.enqueue("noop", ttl=-1, payload=payload)

    async def work(self, recorder: Recorder) -> None:
        spec = self._spec

        async def noop(_context: object, *, payload: dict[str, Any]) -> None:
            recorder.start(payload)
            if spec.wait_ms_max:
                await asyncio.sleep(wait_s(spec, payload["i"]))

        async def after(_context: object) -> None:
            recorder.ack()

        make: Any = import_module("saq").Worker
        worker = make(self._queue, functions=[("noop", noop)], concurrency=spec.concurrency, after_process=after)
        await worker.start()


KINDS = Kinds(Queue)
