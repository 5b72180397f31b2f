"""huey with its own consumer and as many threads as are fastest, without results.

It deletes a job when it takes it: a crash loses what runs. Counted at its signal that the job is complete.
"""

from __future__ import annotations

import logging
import threading
from importlib import import_module
from typing import Any

from benchmarks.peers.blocking import Kinds
from benchmarks.peers.recorder import Recorder
from benchmarks.spec import Spec


class Queue:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._recorder: Recorder | None = None
        self._huey: Any = import_module("huey").RedisHuey("bench", url=spec.url, results=False)

        def noop(payload: dict[str, Any]) -> None:
            assert self._recorder is not None
            self._recorder.start(payload)

        self._task = self._huey.task(name="noop")(noop)

    def open(self) -> None:
        """Its connections open by themselves."""

    def put(self, payload: dict[str, Any]) -> None:
        self._task(payload)

    def work(self, recorder: Recorder) -> None:
        self._recorder = recorder

        def ack(*_signal: object) -> None:
            recorder.ack()

        self._huey.signal(import_module("huey.signals").SIGNAL_COMPLETE)(ack)
        logging.disable(logging.CRITICAL)
        self._huey.create_consumer(workers=self._spec.threads, worker_type="thread", periodic=False).start()
        threading.Event().wait()


KINDS = Kinds(Queue)
