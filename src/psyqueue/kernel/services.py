"""Background coroutines of plugins: started with the queue, started again when they fail, stopped with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from psyqueue.kernel.aio import settle_down, spawn
from psyqueue.kernel.pipeline import label

if TYPE_CHECKING:
    from psyqueue.kernel.core import Core
    from psyqueue.kernel.extension import Service

log: logging.Logger = logging.getLogger(__name__)

RESTART_MS = 1_000
RESTART_CAP_MS = 60_000
"""A service that ran for longer than this starts over with the short pause."""
STOP_MS = 10_000
"""For services to end once they are cancelled; one that ignores it must not keep the queue from stopping."""


class Services:
    """All services of one queue."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, services: Sequence[tuple[str, Service]]) -> None:
        """One task each, from now to `stop`."""
        for owner, fn in services:
            self._tasks.append(spawn(self._supervise(owner, fn), name=f"psyqueue-service-{owner}"))

    async def stop(self) -> None:
        """Cancel them and wait until they are gone, `STOP_MS` at most."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await settle_down(tasks, STOP_MS)
        for task in tasks:
            if not task.done():
                log.error("service ignores its end, left behind", extra={"work": task.get_name()})

    async def _supervise(self, owner: str, fn: Service) -> None:
        """Until it returns by itself, or is cancelled."""
        clock = self._core.clock
        pause_ms = RESTART_MS
        while True:
            began_ms = clock.mono_ms()
            try:
                await fn()
            except Exception as exc:  # noqa: BLE001 - a failing service must neither end the queue nor stay down
                if clock.mono_ms() - began_ms > RESTART_CAP_MS:
                    pause_ms = RESTART_MS
                self._report(owner, fn, exc, pause_ms)
            else:
                return
            await clock.sleep_ms(pause_ms * (0.5 + self._core.chance() / 2))
            pause_ms = min(pause_ms * 2, RESTART_CAP_MS)

    def _report(self, owner: str, fn: Service, error: Exception, pause_ms: int) -> None:
        name = f"{owner}.{label(fn)}"
        log.error("service failed", exc_info=error, extra={"service": name, "restart_in_ms": pause_ms})
        data = {"service": name, "error": repr(error), "restart_in_ms": pause_ms}
        self._core.bus.publish("service:error", data)
