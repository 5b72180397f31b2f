"""A trouble that lasts, told to people: at once, then now and then for as long as it does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psyqueue.clock import Clock
    from psyqueue.kernel.bus import EventBus

log: logging.Logger = logging.getLogger(__name__)

AGAIN_MS = 60_000
KEPT_MAX = 50


class Repeats:
    """What is said with every try hides what else a log says."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: dict[str, float] = {}
        self._untold: dict[str, int] = {}

    def times(self, text: str) -> int:
        """How often it was since it was last told; 0: that is not long ago, so say nothing."""
        now_ms = self._clock.mono_ms()
        if (told_ms := self._told.get(text)) is not None and now_ms - told_ms < AGAIN_MS:
            self._untold[text] = self._untold.get(text, 0) + 1
            return 0
        if len(self._told) >= KEPT_MAX:
            # Texts that differ each time: better told too often than kept.
            self._told.clear()
            self._untold.clear()
        self._told[text] = now_ms
        return 1 + self._untold.pop(text, 0)


class Troubles:
    """A worker's, with its store. Each is an event."""

    def __init__(self, worker: str, bus: EventBus) -> None:
        self._worker = worker
        self._bus = bus
        self._repeats = Repeats(bus.clock)

    def tell(self, error: BaseException) -> None:
        text = str(error)
        self._bus.publish("worker:error", {"worker": self._worker, "error": text})
        if times := self._repeats.times(text):
            log.warning("worker has trouble", extra={"worker": self._worker, "error": text, "times": times})
