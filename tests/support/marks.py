"""Clients of the PostgreSQL store that go by marks, whether that pays or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from psyqueue.backend import Fetch
from psyqueue.backends._postgres.marks import Marks


class Eager(Marks):
    """A mark from the first fetch on; its clock stands still, unless another is given."""

    def __init__(self, clock_ms: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__(clock_ms, pages_dear=-1)

    def asked(self, fetch: Fetch) -> str | None:
        sent: dict[str, Any] = {queue: {"s": 0, "l": {}, "f": True} for queue in fetch.queues}
        return msgspec.json.encode(sent | msgspec.json.decode(super().asked(fetch) or "{}")).decode()


class Everlasting(Eager):
    """Never looks at the whole, which would mend what its marks overlook.

    What became due is looked for as a whole: random histories set the clock back.
    """

    def asked(self, fetch: Fetch) -> str | None:
        sent = super().asked(fetch)
        if sent is None:
            return None
        marks = msgspec.json.decode(sent)
        return msgspec.json.encode({name: {**mark, "f": False, "t": None} for name, mark in marks.items()}).decode()

    def noted(self, queues: Sequence[str], found: dict[str, dict[str, Any]] | None) -> int | None:
        super().noted(queues, found)
        return None
