"""A client says now and then which release it is of, so that nobody drops the functions it calls."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from psyqueue.errors import PsyQueueError

log = logging.getLogger(__name__)

PRESENT_MS: Final = 600_000
"""How often. A set counts as unused after many times as long."""


class Presence:
    """Calls `say` every PRESENT_MS until `close`. A failure is for the next time to mend."""

    def __init__(self, say: Callable[[], Awaitable[None]]) -> None:
        self._say = say
        self._every_s = PRESENT_MS / 1000
        self._ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._work = loop.create_task(self._run(), name="psyqueue-postgres-presence", context=contextvars.Context())

    async def _run(self) -> None:
        while not self._ended.is_set():
            try:
                async with asyncio.timeout(self._every_s):
                    await self._ended.wait()
            except TimeoutError:
                await self._said()

    async def _said(self) -> None:
        try:
            await self._say()
        except PsyQueueError as exc:
            log.debug("this release could not be noted as in use", extra={"error": exc.message})

    async def close(self) -> None:
        """Idempotent."""
        self._ended.set()
        self._work.cancel()
        await asyncio.wait({self._work})
