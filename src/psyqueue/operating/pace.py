"""Not too fast: so many a second, a minute, an hour."""

from __future__ import annotations

import math
import re

from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.clock import Clock, SystemClock
from psyqueue.errors import InvalidOption

_RATE = re.compile(r"(\d+)/(s|m|h)")
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000}
STEP_MS = 200
"""A fast pace goes in steps of so long."""


class Pace:
    """`step` at a time; `keep` waits until the next step may begin."""

    def __init__(self, per_ms: float, clock: Clock | None = None) -> None:
        self._per_ms = per_ms
        self._clock = clock or SystemClock()
        self._next_ms: float | None = None
        self.step: int = max(1, min(ITEMS_MAX, math.floor(per_ms * STEP_MS)))

    async def keep(self, count: int) -> None:
        """After `count` were done."""
        now_ms = self._clock.mono_ms()
        self._next_ms = (now_ms if self._next_ms is None else self._next_ms) + count / self._per_ms
        if self._next_ms > now_ms:
            await self._clock.sleep_ms(self._next_ms - now_ms)


def read_pace(text: str | None) -> Pace | None:
    """`10/s`, `600/m`, `100/h`. Raises InvalidOption."""
    if text is None:
        return None
    found = _RATE.fullmatch(text.strip())
    if found is None or int(found[1]) == 0:
        raise InvalidOption("rate", text, "is no rate", "Write e.g. 10/s, 600/m, 100/h")
    return Pace(int(found[1]) / _UNIT_MS[found[2]])
