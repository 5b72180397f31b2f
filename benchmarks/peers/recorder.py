"""Sees every start and every ack of a worker: the rate, and that each job really ran."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from benchmarks.machine import Span, Window, rss_mb
from benchmarks.peers.figures import quantiles
from benchmarks.peers.payload import of_possible
from benchmarks.spec import Facts, Spec

READY = -1
"""The number of a job that only shows that the worker is there."""


class Recorder:
    """`start` in the handler, `ack` when the queue has noted that the job is done; both from any thread.

    `on_done` is called at the last of `spec.n` acks, once. For a queue without a sign of single acks: `on_ran` is
    called at the last of as many starts, and `ack_all` is for when its tables say that nothing is left.
    """

    def __init__(self, spec: Spec, on_done: Callable[[], None]) -> None:
        self._spec = spec
        self._on_done = on_done
        self._seen = bytearray(spec.stock or spec.n)
        self._acks = itertools.count(1)  # next() is atomic, += is not
        self._span = Span(spec.server_pid)
        self._is_begun = False
        self.started = 0
        self.acked = 0
        self.late_s: list[float] = []
        self.on_ready: Callable[[], None] = _nothing
        self.on_ran: Callable[[], None] = _nothing

    def start(self, payload: dict[str, Any]) -> None:
        i = payload["i"]
        if i == READY:
            self.on_ready()
            return
        if "sent_s" in payload:
            self.late_s.append(time.monotonic() - payload["sent_s"])
        if not self._is_begun:
            self._is_begun = True
            self._span.begin()
        self._seen[i] = 1
        self.started += 1
        if self.started == self._spec.n:
            self.on_ran()

    def ack(self) -> None:
        if not self._is_begun:
            return  # that of READY
        self.acked = next(self._acks)
        if self.acked == self._spec.n:
            self._span.end()
            self._on_done()

    def ack_all(self) -> None:
        self.acked = self._spec.n
        self._span.end()
        self._on_done()

    def rate(self, window: Window) -> Facts:
        """Raises RuntimeError if a job was acked that never ran, or one ran in the place of another."""
        spec, ran = self._spec, sum(self._seen)
        if ran < spec.n:
            raise RuntimeError(f"{spec.peer}: {spec.n} acks, but only {ran} of {len(self._seen)} jobs ran")
        found = self._span.rate(spec.n) | {"ran": ran, "rss_mb": rss_mb()} | window.facts()
        return found | {"of_possible": of_possible(spec, found["value"])} if spec.wait_ms_max else found

    def latency(self) -> Facts:
        """Raises RuntimeError if one did not arrive."""
        if sum(self._seen) < self._spec.n:
            raise RuntimeError(f"{self._spec.peer}: {sum(self._seen)} of {self._spec.n} jobs ran")
        return quantiles(self.late_s)


def _nothing() -> None:
    """Nobody waits for this."""
