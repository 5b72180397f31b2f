"""Where fetches begin: a client's memory of how far the queues are worked off (includes/marks.sql).

A hint, never a truth: each queue is looked at as a whole again after a while, the sooner the less that costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from psyqueue.backend import Fetch

PAGES_DEAR: Final = 32
"""A look at the head of the index costs some four pages, and one for 150 jobs that it brings."""
WHOLE_MS: Final = 1_000
"""A queue is looked at as a whole at least so often."""
MS_A_PAGE: Final = 1
"""A page, with what its entries stand for, takes some 50 µs to look at: whole looks get a twentieth of a core."""
_encode = msgspec.json.Encoder().encode


class _Mark:
    __slots__ = ("found", "whole_at_ms")

    def __init__(self, found: dict[str, Any], whole_at_ms: float) -> None:
        self.found = found
        self.whole_at_ms = whole_at_ms


class Marks:
    """Of one client. No mark for a queue means that a look at the whole of it is cheap, and done each time."""

    def __init__(
        self, clock_ms: Callable[[], float] = lambda: time.monotonic() * 1000, pages_dear: int = PAGES_DEAR
    ) -> None:
        self._clock_ms = clock_ms
        self._pages_dear = pages_dear
        self._marks: dict[str, _Mark] = {}

    def asked(self, fetch: Fetch) -> str | None:
        """What a fetch sends along."""
        if not self._marks:
            return None
        now_ms = self._clock_ms()
        sent = {
            queue: {**mark.found, "f": mark.whole_at_ms <= now_ms}
            for queue in fetch.queues
            if (mark := self._marks.get(queue)) is not None
        }
        return _encode(sent).decode() if sent else None

    def noted(self, queues: Sequence[str], found: dict[str, dict[str, Any]] | None) -> int | None:
        """Take in what a fetch brought. Returns: ms until the next look at the whole; None: each look is one."""
        if found is None:
            for queue in queues if self._marks else ():
                self._marks.pop(queue, None)
            return None
        now_ms = self._clock_ms()
        for queue in queues:
            mark, before = found.get(queue), self._marks.pop(queue, None)
            if mark is None or (mark["f"] and mark["p"] <= self._pages_dear):
                continue
            whole_at_ms = now_ms + min(WHOLE_MS, mark["p"] * MS_A_PAGE)
            if not mark["f"] and before is not None:
                whole_at_ms = before.whole_at_ms
            self._marks[queue] = _Mark({name: mark[name] for name in "stl"}, whole_at_ms)
        looks = [self._marks[queue].whole_at_ms for queue in queues if queue in self._marks]
        return max(0, round(min(looks) - now_ms)) if looks else None
