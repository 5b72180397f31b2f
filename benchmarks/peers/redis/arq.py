"""arq on uvloop, in an environment of its own: it wants an older redis client than the others.

Results are kept for no time (`keep_result=0`). It polls; 10 ms instead of its default of 500 is as often as makes a
difference. `after_job_end`, where the hook counts, comes after the job was removed.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

from benchmarks.peers.asynchronous import Kinds
from benchmarks.peers.payload import wait_s
from benchmarks.peers.recorder import Recorder
from benchmarks.spec import Spec

POLL_S = 0.01


class Queue:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._settings: Any = import_module("arq.connections").RedisSettings.from_dsn(spec.url)

    async def open(self) -> None:
        self._pool: Any = await import_module("arq").create_pool(self._settings)

    async def put(self, payload: dict[str, Any]) -> None:
        await self._pool.enqueue_job("noop", payload)

    async def work(self, recorder: Recorder) -> None:
        spec = self._spec
        arq: Any = import_module("arq.worker")

        async def noop(_context: object, payload: dict[str, Any]) -> None:
            recorder.start(payload)
            if spec.wait_ms_max:
                await asyncio.sleep(wait_s(spec, payload["i"]))

        async def after(_context: object) -> None:
            recorder.ack()

        worker = arq.Worker(
            functions=[arq.func(noop, name="noop", keep_result=0)],
            redis_settings=self._settings,
            max_jobs=spec.concurrency,
            poll_delay=POLL_S,
            after_job_end=after,
            handle_signals=False,
        )
        await worker.async_run()


KINDS = Kinds(Queue)
