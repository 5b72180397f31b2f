"""What all pages work with: the queue, its store, its plugins, and what was seen of it lately."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from psyqueue import PsyQueue
from psyqueue.backend import BackendAdapter
from psyqueue.clock import SystemClock
from psyqueue.errors import ConfigError, NotStarted
from psyqueue.kernel.extension import Kernel
from psyqueue.operating.queues import QueueLine, Snapshot, look, queue_lines

if TYPE_CHECKING:
    from psyqueue.plugins import Schedules, Workflows

LOOK_AGAIN_MS: Final = 1_000
"""However many look at the dashboard, the store is asked for its queues no more often."""
POINTS_MAX: Final = 240
POINT_MS: Final = 2_000


class Point(Struct, frozen=True):
    """All queues together at one moment of this process; None: no rate, since there was no look before."""

    mono_ms: float
    pending: int
    active: int
    ended_per_second: float | None


class Desk:
    """Of one dashboard. What it keeps is for rates and pictures only; the truth is asked for each time."""

    def __init__(self, queue: PsyQueue) -> None:
        self.queue = queue
        self.kernel = Kernel(queue._core.registry, "dashboard")  # noqa: SLF001 - as a plugin that comes late has it
        self.points: deque[Point] = deque(maxlen=POINTS_MAX)
        self._seen: Snapshot | None = None
        self._lines: list[QueueLine] = []

    def require_open(self) -> None:
        """Raises NotStarted."""
        if not self.queue.is_running:
            text = "the queue of this dashboard is not open; the application opens it when it starts: async with q"
            raise NotStarted(text)

    @property
    def store(self) -> BackendAdapter:
        """With every wrapper around it. Raises LifecycleError."""
        return self.kernel.store

    @property
    def schedules(self) -> Schedules | None:
        """None where the queue has no such plugin."""
        found: Schedules | None = self._exposed("schedules")
        return found

    @property
    def workflows(self) -> Workflows | None:
        """None where the queue has no such plugin."""
        found: Workflows | None = self._exposed("workflows")
        return found

    async def look(self) -> tuple[Snapshot, list[QueueLine]]:
        """At all queues and workers, with rates since the look before. Raises StoreError."""
        store, before = self.store, self._seen
        now_ms = SystemClock().mono_ms()
        if before is None or now_ms - before.mono_ms >= LOOK_AGAIN_MS:
            self._seen = seen = await look(store)
            self._lines = queue_lines(seen, before)
            self._note(seen)
        assert self._seen is not None
        return self._seen, self._lines

    def _note(self, seen: Snapshot) -> None:
        if self.points and seen.mono_ms - self.points[-1].mono_ms < POINT_MS:
            return
        rates = [line.ended_per_second for line in self._lines if line.ended_per_second is not None]
        pending, active = (sum(getattr(line, name) for line in self._lines) for name in ("pending", "active"))
        self.points.append(Point(seen.mono_ms, pending, active, round(sum(rates), 1) if rates else None))

    def _exposed(self, namespace: str) -> Any:
        try:
            return self.queue.get_exposed(namespace)
        except ConfigError:
            return None
