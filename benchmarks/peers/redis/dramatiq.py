"""dramatiq with as many threads as are fastest, and without its middleware.

That flatters it: no retries, no limits of time or age. It takes 100 jobs at once (by default, two a thread), which
made it faster with few threads. `after_ack`, where the hook counts, comes after the ack.
"""

from __future__ import annotations

import os
import threading
from importlib import import_module
from typing import Any

from benchmarks.peers.blocking import Kinds
from benchmarks.peers.recorder import Recorder
from benchmarks.spec import Spec

PREFETCH_OPTION = "dramatiq_queue_prefetch"


class Queue:
    def __init__(self, spec: Spec) -> None:
        os.environ[PREFETCH_OPTION] = "100"  # read when dramatiq is imported
        self._spec = spec
        self._recorder: Recorder | None = None
        self._dramatiq: Any = import_module("dramatiq")
        self._broker: Any = import_module("dramatiq.brokers.redis").RedisBroker(url=spec.url, middleware=[])

        def noop(payload: dict[str, Any]) -> None:
            assert self._recorder is not None
            self._recorder.start(payload)

        self._actor = self._dramatiq.actor(noop, broker=self._broker, queue_name="bench", actor_name="noop")

    def open(self) -> None:
        """Its connections open by themselves."""

    def put(self, payload: dict[str, Any]) -> None:
        self._actor.send(payload)

    def work(self, recorder: Recorder) -> None:
        self._recorder = recorder
        base: Any = import_module("dramatiq.middleware").Middleware

        class Count(base):  # type: ignore[misc]
            def after_ack(self, _broker: object, _message: object) -> None:
                recorder.ack()

        self._broker.add_middleware(Count())
        self._dramatiq.Worker(self._broker, worker_threads=self._spec.threads).start()
        threading.Event().wait()


KINDS = Kinds(Queue)
