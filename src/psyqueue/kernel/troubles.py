"""A worker's trouble with its store, told to people: at once, then now and then for as long as it lasts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psyqueue.kernel.bus import EventBus

log: logging.Logger = logging.getLogger(__name__)

AGAIN_MS = 60_000
KEPT_MAX = 50


class Troubles:
    """Each is an event; a log that gets the same line with every try hides what else it says."""

    def __init__(self, worker: str, bus: EventBus) -> None:
        self._worker = worker
        self._bus = bus
        self._told: dict[str, float] = {}
        self._untold: dict[str, int] = {}

    def tell(self, error: BaseException) -> None:
        text, now_ms = str(error), self._bus.clock.mono_ms()
        self._bus.publish("worker:error", {"worker": self._worker, "error": text})
        if (told_ms := self._told.get(text)) is not None and now_ms - told_ms < AGAIN_MS:
            self._untold[text] = self._untold.get(text, 0) + 1
            return
        if len(self._told) >= KEPT_MAX:
            # Texts that differ each time: better told too often than kept.
            self._told.clear()
            self._untold.clear()
        self._told[text] = now_ms
        times = 1 + self._untold.pop(text, 0)
        log.warning("worker has trouble", extra={"worker": self._worker, "error": text, "times": times})
