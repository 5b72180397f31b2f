"""streaq on uvloop, as its own command line uses it. Results are kept for no time (`ttl=0`).

An ack is the pipeline of `finish_task`; there is no hook behind it, so that method is wrapped.
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
        self._producer, self._task = self._make(None)

    def _make(self, recorder: Recorder | None) -> tuple[Any, Any]:
        """A worker, which is also what enqueues, and its task."""
        spec = self._spec
        make: Any = import_module("streaq").Worker
        worker = make(redis_url=spec.url, concurrency=spec.concurrency, queue_name="bench", handle_signals=False)

        async def noop(payload: dict[str, Any]) -> None:
            assert recorder is not None
            recorder.start(payload)
            if spec.wait_ms_max:
                await asyncio.sleep(wait_s(spec, payload["i"]))

        return worker, worker.task(name="noop", ttl=0, silent=True)(noop)

    async def open(self) -> None:
        await self._producer.__aenter__()

    async def put(self, payload: dict[str, Any]) -> None:
        await self._task.enqueue(payload)

    async def put_many(self, payloads: list[dict[str, Any]]) -> None:
        await self._producer.enqueue_many([self._task.enqueue(payload) for payload in payloads])

    async def work(self, recorder: Recorder) -> None:
        worker, _ = self._make(recorder)
        finish = worker.finish_task

        async def counted(*args: Any, **options: Any) -> None:
            await finish(*args, **options)
            recorder.ack()

        worker.finish_task = counted
        await worker.run_async()


KINDS = Kinds(Queue)
