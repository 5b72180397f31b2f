"""What is in the store, as metrics: one look at it, the same for every process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct
from prometheus_client.core import GaugeMetricFamily

from psyqueue.backend import BackendAdapter, QueueInfo, SessionInfo
from psyqueue.backend.compose import all_queues, all_sessions
from psyqueue.backend.reading import is_paused
from psyqueue.errors import StoreError
from psyqueue.job import STATUSES

LOOK_S_MAX: Final = 3.0
"""Who scrapes waits for 10 s by default, and is to be told that the store does not answer."""


class Look(Struct, frozen=True):
    """What was seen, at an instant of the store's clock."""

    now_ms: int
    queues: Sequence[QueueInfo]
    sessions: Sequence[SessionInfo]


class StoreView:
    """A collector of the last look; `look` takes another one. Before the first there is nothing to collect."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._seen: Look | None = None
        self._has_looked = False

    async def look(self, backend: BackendAdapter) -> None:
        """Read counts and workers. A store that does not answer is told as `store_up 0`, and nothing else of it."""
        try:
            async with asyncio.timeout(LOOK_S_MAX):
                now_ms = (await backend.info()).now_ms
                self._seen = Look(now_ms, await all_queues(backend), await all_sessions(backend))
        except (StoreError, TimeoutError):
            self._seen = None
        self._has_looked = True

    def forget(self) -> None:
        """What was seen is no longer so."""
        self._seen, self._has_looked = None, False

    # ── as prometheus_client asks ─────────────────────────────────────────────────────────────────────────────────────
    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The names, so that a registry notices who brings them twice."""
        yield self._gauge("store_up", "Whether the store answered when it was last looked at.")
        yield self._gauge("queue_jobs", "Jobs in the store.", "queue", "status")
        yield self._gauge("queue_oldest_pending_seconds", "Since when the oldest pending job could start.", "queue")
        yield self._gauge("queue_paused", "Whether the queue is paused.", "queue")
        yield self._gauge("queue_workers", "Workers that take jobs of the queue.", "queue")
        yield self._gauge("workers", "Workers that are registered, on all machines.")

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The last look."""
        if not self._has_looked:
            return
        up, jobs, oldest, paused, serving, workers = self.describe()
        seen = self._seen
        up.add_metric((), float(seen is not None))
        yield up
        if seen is None:
            return
        served = Counter(name for info in seen.sessions if info.expires_in_ms >= 0 for name in info.session.queues)
        for info in seen.queues:
            queue = (info.queue,)
            for status in STATUSES:
                jobs.add_metric((info.queue, status), info.counts.get(status, 0))
            since_ms = info.oldest_pending_at_ms
            oldest.add_metric(queue, 0 if since_ms is None else max(0, seen.now_ms - since_ms) / 1000)
            paused.add_metric(queue, is_paused(info.limits, seen.now_ms))
            serving.add_metric(queue, served[info.queue])
        workers.add_metric((), sum(info.expires_in_ms >= 0 for info in seen.sessions))
        yield from (jobs, oldest, paused, serving, workers)

    def _gauge(self, name: str, text: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"{self._prefix}_{name}", text, labels=labels)
