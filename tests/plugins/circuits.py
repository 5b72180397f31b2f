"""A queue whose handler goes through a circuit breaker, the service behind it, and a store that can be away."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from psyqueue import PsyQueue, StoreUnavailable
from psyqueue.backend import Effects
from psyqueue.backends import memory
from psyqueue.plugins import CircuitBreaker

CALLS = {"write_state", "read_state", "scan_state", "put_limits", "info"}


class Service:
    """What a handler depends on: down as long as `error` is set. `calls` reached it."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.calls = 0

    async def charge(self) -> str:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return "paid"


class Counting:
    """Counts the calls of the store that a plugin makes; with `is_away` set they fail, with `hangs` they never end."""

    name = "counting"

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.is_away = False
        self.hangs = False

    def init(self, kernel: Any) -> None:
        kernel.wrap_backend(lambda inner: Wrapped(inner, self))

    def take(self) -> dict[str, int]:
        """What was counted since the last time."""
        taken, self.calls = dict(self.calls), Counter()
        return taken


def is_of_worker(effects: Effects) -> bool:
    """What a worker writes of itself: how much it got done."""
    return any(write.key.startswith("done") for write in effects.writes)


class Wrapped:
    def __init__(self, inner: Any, counting: Counting) -> None:
        self._inner, self._counting = inner, counting

    def __getattr__(self, verb: str) -> Any:
        call = getattr(self._inner, verb)
        if verb not in CALLS:
            return call

        async def counted(*given: Any, **named: Any) -> Any:
            if any(isinstance(each, Effects) and is_of_worker(each) for each in given):
                return await call(*given, **named)
            self._counting.calls[verb] += 1
            if self._counting.is_away:
                raise StoreUnavailable("it is away", "refused")
            if self._counting.hangs:
                await asyncio.Event().wait()
            return await call(*given, **named)

        return counted


class Shop:
    """A queue whose handler `charge` goes through the breaker `payments`."""

    def __init__(self, **options: Any) -> None:
        self.service = Service()
        self.breaker = CircuitBreaker("payments", **{"failures": 3, "handlers": ["charge"], **options})
        self.counting = Counting()
        self.q = PsyQueue().use(memory()).use(self.breaker).use(self.counting)
        self.charge = self.q.handle("charge", self.service.charge, max_retries=0)
        self.told: list[str] = []

    def listen(self) -> None:
        self.q.events.on("circuit:*", lambda event: self.told.append(event.type.removeprefix("circuit:")))

    def testing(self) -> Any:
        return self.q.testing(raise_errors=False)

    async def run(self, count: int = 1) -> None:
        """Enqueue so many jobs, and run each once."""
        await self.q.enqueue_bulk([self.charge.build() for _ in range(count)])
        for _ in range(count):
            await self.q.process_next("charge")
