"""taskiq with its broker on a Redis stream, without a result backend; uvloop, as its own command line uses it.

An ack is XACK, right after `post_save`, where the hook here counts. Acked entries stay in the stream: it has no option
to delete them, but for a greatest length that would drop what waits.
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
        self._recorder: Recorder | None = None
        self._broker: Any = import_module("taskiq_redis").RedisStreamBroker(spec.url, queue_name="bench")

        async def noop(payload: dict[str, Any]) -> None:
            assert self._recorder is not None
            self._recorder.start(payload)
            if spec.wait_ms_max:
                await asyncio.sleep(wait_s(spec, payload["i"]))

        self._task = self._broker.register_task(noop, task_name="noop")

    async def open(self) -> None:
        await self._broker.startup()

    async def put(self, payload: dict[str, Any]) -> None:
        await self._task.kiq(payload)

    async def work(self, recorder: Recorder) -> None:
        self._recorder = recorder
        base: Any = import_module("taskiq").TaskiqMiddleware

        class Count(base):  # type: ignore[misc]
            def post_save(self, _message: object, _result: object) -> None:
                recorder.ack()

        self._broker.add_middlewares(Count())
        receive = import_module("taskiq.api").run_receiver_task
        await receive(self._broker, max_async_tasks=self._spec.concurrency, max_prefetch=self._spec.concurrency)


KINDS = Kinds(Queue)
