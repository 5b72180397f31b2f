"""What all pages work with: the queue, its store, its plugins, and what was seen of it lately."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from psyqueue import PsyQueue
from psyqueue.backend import BackendAdapter
from psyqueue.clock import SystemClock
from psyqueue.errors import ConfigError, NotStarted
from psyqueue.kernel.extension import Kernel
from psyqueue.kernel.throughput import Minute, minutes_until
from psyqueue.operating.queues import QueueLine, Snapshot, look, queue_lines

if TYPE_CHECKING:
    from psyqueue.plugins import Schedules, Workflows

LOOK_AGAIN_MS: Final = 1_000
"""However many look at the dashboard, the store is asked for its queues no more often."""
MINUTES_SHOWN: Final = 60
POINTS_MAX: Final = 240
POINT_MS: Final = 2_000


class Sight(Struct, frozen=True):
    """What was seen at a moment of this process. `minutes`: the last whole ones, in order."""

    mono_ms: float
    seen: Snapshot
    lines: Sequence[QueueLine]
    minutes: Sequence[Minute]


class Desk:
    """Of one dashboard. What it keeps is for a picture only; the truth is asked for each time."""

    def __init__(self, queue: PsyQueue, title: str) -> None:
        self.queue: PsyQueue = queue
        self.title: str = title
        self.kernel: Kernel = Kernel(queue._core.registry, "dashboard")  # noqa: SLF001 - as a plugin that comes late has it
        self.pending: deque[tuple[float, float | None]] = deque(maxlen=POINTS_MAX)
        """How many jobs were pending in all queues, at moments of this process."""
        self._sight: Sight | None = None
        self._looking = asyncio.Lock()

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

    async def look(self) -> Sight:
        """At all queues and workers. Raises StoreError."""
        async with self._looking:  # whoever comes meanwhile sees the same
            now_ms = SystemClock().mono_ms()
            if self._sight is None or now_ms - self._sight.mono_ms >= LOOK_AGAIN_MS:
                seen = await look(self.store)
                minutes = await minutes_until(self.store, seen.now_ms, MINUTES_SHOWN)
                self._sight = Sight(SystemClock().mono_ms(), seen, queue_lines(seen), minutes)
                self._note(self._sight)
            return self._sight

    def forget(self) -> None:
        """Something was changed by hand: the next look is a new one."""
        self._sight = None

    def _note(self, sight: Sight) -> None:
        if not self.pending or sight.mono_ms - self.pending[-1][0] >= POINT_MS:
            self.pending.append((sight.mono_ms, sum(line.pending for line in sight.lines)))

    def _exposed(self, namespace: str) -> Any:
        try:
            return self.queue.get_exposed(namespace)
        except ConfigError:
            return None
