"""A connection in the background that fails again and again: one warning, and longer and longer waits between tries."""

from __future__ import annotations

import asyncio
import logging
import zlib
from typing import Final

from psyqueue.backoff import delay_ms, with_jitter

log = logging.getLogger(__name__)

_BASE_MS: Final = 100
_CAP_MS: Final = 5_000


class Trouble:
    """`what` is in trouble while `is_on`. `client_id` spreads the tries of a crowd that lost the same server."""

    def __init__(self, what: str, client_id: str) -> None:
        self._what = what
        self._chance = (zlib.crc32(client_id.encode()) & 0xFFFF) / 0x1_0000
        self._failures = 0
        self._ended = asyncio.Event()

    @property
    def is_on(self) -> bool:
        return self._failures > 0

    def note(self, exc: BaseException) -> None:
        self._failures += 1
        if self._failures == 1:
            log.warning("a connection in the background failed", extra={"connection": self._what, "error": str(exc)})

    def end(self) -> None:
        if self._failures:
            self._failures = 0
            log.info("a connection in the background is back", extra={"connection": self._what})

    async def pause(self) -> None:
        """Wait before the next try; `stop` ends it."""
        wait_ms = with_jitter(delay_ms("exponential", max(1, self._failures), _BASE_MS, _CAP_MS), _CAP_MS, self._chance)
        try:
            async with asyncio.timeout(wait_ms / 1000):
                await self._ended.wait()
        except TimeoutError:
            return

    def stop(self) -> None:
        self._ended.set()
