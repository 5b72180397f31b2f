"""celery with threads, as many as are fastest, without results, gossip, mingle and heartbeat.

It takes jobs one by one, so more prefetch than its default gained nothing. It acks early, which is its default and
costs it less: a crash loses what runs. Counted when the handler has ended.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from benchmarks.peers.blocking import Kinds
from benchmarks.peers.recorder import Recorder
from benchmarks.spec import Spec


class Queue:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._recorder: Recorder | None = None
        self._app: Any = import_module("celery").Celery("bench", broker=spec.url)
        self._app.conf.update(
            task_ignore_result=True,
            worker_hijack_root_logger=False,
            worker_redirect_stdouts=False,
            broker_connection_retry_on_startup=True,
        )

        def noop(payload: dict[str, Any]) -> None:
            assert self._recorder is not None
            self._recorder.start(payload)

        self._task = self._app.task(noop, name="noop")

    def open(self) -> None:
        """Its connections open by themselves."""

    def put(self, payload: dict[str, Any]) -> None:
        self._task.delay(payload)

    def work(self, recorder: Recorder) -> None:
        self._recorder = recorder

        def ack(**_signal: object) -> None:
            recorder.ack()

        import_module("celery.signals").task_postrun.connect(ack, weak=False)
        quiet = ("--loglevel", "CRITICAL", "--without-gossip", "--without-mingle", "--without-heartbeat")
        self._app.worker_main(["worker", "--pool", "threads", "--concurrency", str(self._spec.threads), *quiet])


KINDS = Kinds(Queue)
