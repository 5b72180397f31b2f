"""rq with its SimpleWorker, which runs jobs in its own process; its default forks for each job and is far slower.

Results are kept for no time (`result_ttl=0`). Counted when `execute_job`, which notes the end of the job, has returned.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from benchmarks.peers.blocking import Kinds
from benchmarks.peers.recorder import Recorder
from benchmarks.spec import Spec

_recorders: list[Recorder] = []


def noop(payload: dict[str, Any]) -> None:
    """Rq finds it by its name."""
    _recorders[0].start(payload)


class Queue:
    def __init__(self, spec: Spec) -> None:
        self._rq: Any = import_module("rq")
        self._connection: Any = import_module("redis").Redis.from_url(spec.url)

    def open(self) -> None:
        self._queue = self._rq.Queue("bench", connection=self._connection)

    def put(self, payload: dict[str, Any]) -> None:
        self._queue.enqueue(noop, payload, result_ttl=0)

    def put_many(self, payloads: list[dict[str, Any]]) -> None:
        prepare = self._rq.Queue.prepare_data
        self._queue.enqueue_many([prepare(noop, (payload,), result_ttl=0) for payload in payloads])

    def work(self, recorder: Recorder) -> None:
        _recorders.append(recorder)
        base: Any = self._rq.SimpleWorker

        class Worker(base):  # type: ignore[misc]
            def execute_job(self, job: Any, queue: Any) -> Any:
                found = super().execute_job(job, queue)
                recorder.ack()
                return found

        logging.disable(logging.CRITICAL)
        Worker([self._queue], connection=self._connection).work(logging_level="CRITICAL")


KINDS = Kinds(Queue)
