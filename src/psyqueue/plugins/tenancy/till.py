"""Takes tokens for all callers of a process: while one call of the store is under way, the next ones gather."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from psyqueue.backend import StateWrite
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.errors import PsyQueueError, RateLimitError

Write: TypeAlias = Callable[[Sequence[StateWrite]], Awaitable[object]]
"""All of these or none. Raises RateLimitError, StoreError, NamespaceFrozen."""


class _Caller:
    """What one wants, all or none. `error` is how it ended, once `is_served`."""

    __slots__ = ("error", "is_served", "numbers", "takes")

    def __init__(self, takes: Sequence[StateWrite]) -> None:
        self.takes = takes
        self.numbers = {take.key: take.number for take in takes}
        self.is_served = False
        self.error: PsyQueueError | None = None


class Till:
    """Over `write`. One whose bucket is empty spoils nothing for those who stand beside him."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: dict[_Caller, None] = {}
        """In order of arrival."""
        self._serving = asyncio.Lock()

    async def take(self, takes: Sequence[StateWrite]) -> None:
        """All or none; ITEMS_MAX at most. Raises as `write`."""
        me = _Caller(takes)
        self._waiting[me] = None
        try:
            async with self._serving:  # whose turn it is serves all who came meanwhile
                while not me.is_served:
                    await self._serve(self._next())
        finally:
            self._waiting.pop(me, None)  # one that was cancelled waits for nothing any more
        if me.error is not None:
            raise me.error

    def _next(self) -> list[_Caller]:
        """Those who came first, as many as fit into one call."""
        callers: list[_Caller] = []
        items = 0
        for caller in self._waiting:
            items += len(caller.takes)
            if items > ITEMS_MAX:
                break
            callers.append(caller)
        return callers

    async def _serve(self, callers: Sequence[_Caller]) -> None:
        try:
            await self._write([take for caller in callers for take in caller.takes])
        except RateLimitError as exc:
            if len(callers) > 1:
                return await self._serve_apart(callers, exc.key)
            self._end(callers, exc)
        except PsyQueueError as exc:
            self._end(callers, exc)
        else:
            self._end(callers, None)

    async def _serve_apart(self, callers: Sequence[_Caller], key: str) -> None:
        """The others together; then one after the other who wants of this bucket, until it holds too little for one."""
        others = [caller for caller in callers if key not in caller.numbers]
        if others:
            await self._serve(others)
        refused: RateLimitError | None = None
        least = 0
        for caller in callers:
            number = caller.numbers.get(key, 0)
            if not number:
                continue
            if refused is not None and number >= least:
                self._end([caller], RateLimitError(key, round(refused.retry_after * 1000)))
                continue
            await self._serve([caller])
            if isinstance(caller.error, RateLimitError) and caller.error.key == key:
                refused, least = caller.error, number

    def _end(self, callers: Sequence[_Caller], error: PsyQueueError | None) -> None:
        for caller in callers:
            self._waiting.pop(caller, None)
            caller.is_served, caller.error = True, error
