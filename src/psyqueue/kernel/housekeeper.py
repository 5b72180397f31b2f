"""Bounded maintenance at a steady pace, in every worker, without a leader: each step is harmless when doubled."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from psyqueue.backend import Done
from psyqueue.errors import NamespaceFrozen, StoreError
from psyqueue.kernel.troubles import Repeats

if TYPE_CHECKING:
    from psyqueue.kernel.core import Core

log: logging.Logger = logging.getLogger(__name__)

PERIOD_MS = 5_000
REAP_LIMIT = 200
"""2 ms of the store's writer a step, measured."""
PRUNE_LIMIT = 500
ENDED_BEFORE_PRUNE = 1_000
"""Ended jobs of this worker after which it prunes without waiting for its turn, so that the store stays bounded."""


class Housekeeper:
    """Reaps sessions, promotes and expires jobs, prunes. `lease_ms` short of the usual makes the rounds quicker.

    `may_reap`: whoever could not renew its own lease does not judge those of others.
    """

    def __init__(
        self, core: Core, queues: Callable[[], Sequence[str]], lease_ms: int, may_reap: Callable[[], bool]
    ) -> None:
        self._core = core
        self._queues = queues
        self._may_reap = may_reap
        self._period_ms = min(PERIOD_MS, lease_ms / 4)
        self._repeats = Repeats(core.clock)
        self._ended = 0
        self._is_pruning = False

    async def work(self) -> None:
        """Rounds for ever; a store that is away is only waited for."""
        clock = self._core.clock
        since_prune_ms = 0.0
        while True:
            wait_ms = self._period_ms * (0.8 + 0.4 * self._core.chance())
            await clock.sleep_ms(wait_ms)
            since_prune_ms += wait_ms
            try:
                if self._may_reap():
                    await self._reap()
                await self._rounds(lambda: self._core.backend.promote(self._queues(), PRUNE_LIMIT))
                if since_prune_ms >= PERIOD_MS:
                    since_prune_ms = 0.0
                    await self._rounds(lambda: self._core.backend.prune(PRUNE_LIMIT))
            except (StoreError, NamespaceFrozen) as exc:
                self._postponed(exc)
            except Exception:
                # A worker that no longer reaps would leave the jobs of the others lying: the next round may work.
                log.exception("maintenance failed")

    def note_ended(self, count: int) -> bool:
        """True when it is time to call `prune`."""
        self._ended += count
        return self._ended >= ENDED_BEFORE_PRUNE and not self._is_pruning

    async def prune(self) -> None:
        """What the retention rules gave up, as far as it goes; called beside the rounds by a busy worker."""
        self._is_pruning = True
        self._ended = 0
        try:
            await self._rounds(lambda: self._core.backend.prune(PRUNE_LIMIT))
        except (StoreError, NamespaceFrozen) as exc:
            self._postponed(exc)
        finally:
            self._is_pruning = False

    def _postponed(self, error: Exception) -> None:
        if times := self._repeats.times(str(error)):
            log.warning("maintenance postponed", extra={"error": str(error), "times": times})

    async def _reap(self) -> None:
        more = True
        while more:
            done = await self._core.backend.reap(REAP_LIMIT)
            more = done.more
            if done.ids:
                log.warning("jobs taken back from a lost worker", extra={"count": done.count})
                if self._core.bus.wants("job:recovered"):
                    self._core.bus.publish("job:recovered", {"count": done.count, "job_ids": list(done.ids)})

    @staticmethod
    async def _rounds(step: Callable[[], Awaitable[Done]]) -> None:
        while (await step()).more:
            pass
