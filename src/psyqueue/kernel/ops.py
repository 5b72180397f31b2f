"""Calls of mutating verbs, each with an identity, repeated until their outcome is known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from psyqueue.backend import Op
from psyqueue.clock import Clock
from psyqueue.errors import StoreBusy, StoreFull, StoreUnavailable

T = TypeVar("T")

GIVE_UP_MS = 10_000
"""After this long without a known outcome the caller is told. A repeat by id or idempotency key stays safe."""
PAUSE_MS = 20
PAUSE_CAP_MS = 1_000


class Channel:
    """One call in flight, each a new turn. For one caller that awaits its calls one after the other."""

    def __init__(
        self, client: str, number: int, *, clock: Clock, chance: Callable[[], float], give_up_ms: float = GIVE_UP_MS
    ) -> None:
        self._client = client
        self._number = number
        self._clock = clock
        self._chance = chance
        self._give_up_ms = give_up_ms
        self._turn = 0
        self.given_up: StoreUnavailable | StoreBusy | StoreFull | None = None
        """What the last call ended with, if it was because its time was up."""

    def run(self, call: Callable[[Op], Awaitable[T]]) -> Coroutine[Any, Any, T]:
        """`await call(op)`, with the same op again while the store is busy or the outcome unknown.

        Raises what the store refused at once; the last StoreUnavailable or StoreBusy after `give_up_ms`. Once a try got
        no answer, that a later one did not reach the store, or found it full, says nothing about it: it stays unknown.
        """
        return self._run(call, self._clock.mono_ms() + self._give_up_ms)

    async def _run(self, call: Callable[[Op], Awaitable[T]], give_up_at: float) -> T:
        self._turn += 1
        self.given_up = None
        op = Op(self._client, self._number, self._turn)
        try:
            return await call(op)
        except (StoreUnavailable, StoreBusy) as exc:
            return await self._repeat(call, op, exc, give_up_at)

    async def _repeat(
        self,
        call: Callable[[Op], Awaitable[T]],
        op: Op,
        error: StoreUnavailable | StoreBusy | StoreFull,
        give_up_at: float,
    ) -> T:
        pause_ms = float(PAUSE_MS)
        may_have_happened = False
        while True:
            if isinstance(error, StoreUnavailable) and error.outcome == "unknown":
                may_have_happened = True
            elif not isinstance(error, StoreBusy) and not may_have_happened:
                raise error
            if self._clock.mono_ms() >= give_up_at:
                self.given_up = error
                if may_have_happened and not (isinstance(error, StoreUnavailable) and error.outcome == "unknown"):
                    raise StoreUnavailable(f"whether the call was done is unknown; then: {error.message}") from error
                raise error
            await self._clock.sleep_ms(pause_ms * (0.5 + self._chance() / 2))
            pause_ms = min(pause_ms * 2, PAUSE_CAP_MS)
            try:
                return await call(op)
            except (StoreUnavailable, StoreBusy, StoreFull) as exc:
                error = exc


class SharedChannel(Channel):
    """A channel for whoever comes: callers take their turns in order of arrival."""

    def __init__(
        self, client: str, number: int, *, clock: Clock, chance: Callable[[], float], give_up_ms: float = GIVE_UP_MS
    ) -> None:
        super().__init__(client, number, clock=clock, chance=chance, give_up_ms=give_up_ms)
        self._lock = asyncio.Lock()

    async def run(self, call: Callable[[Op], Awaitable[T]]) -> T:
        """As Channel.run, one after the other. Every call is tried, however long it waited for its turn."""
        give_up_at = self._clock.mono_ms() + self._give_up_ms
        async with self._lock:
            return await self._run(call, give_up_at)
