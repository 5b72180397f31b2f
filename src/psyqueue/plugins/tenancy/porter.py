"""Stands before the enqueues of one process, with a memory of what it has seen to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from psyqueue.errors import NamespaceFrozen, RateLimitError, StoreError, TooLarge
from psyqueue.job import name_problem
from psyqueue.kernel.extension import Kernel
from psyqueue.plugins.tenancy.roster import NOWHERE, Lane, Roster, tenant_of
from psyqueue.plugins.tenancy.tier import Tier

log: logging.Logger = logging.getLogger(__name__)

KNOWN_MS: Final = 30_000
"""So long nobody looks at a lane again: what a process that died left undone is mended within this, at an enqueue."""
KNOWN_MAX: Final = 10_000
"""Lanes that a process remembers; those that it looked at first are forgotten first."""
FRESH_MS: Final = 1_000
AGAIN_MS: Final = 5_000


class _Known(Struct, frozen=True, gc=False):
    """What a look at `at_ms` of this process's clock found: the tenant's enqueues a minute."""

    at_ms: int
    rate: int | None


class Porter:
    """From the start of the queue to its stop. `tiers` and `default` are put into the store before all else."""

    def __init__(self, kernel: Kernel, tiers: Mapping[str, Tier], default: str) -> None:
        self._kernel = kernel
        self._roster = Roster(kernel)
        self._tiers = tiers
        self._default = default
        self._is_declared = False
        self._known: dict[Lane, _Known] = {}
        """In the order of the looks."""
        self._declaring, self._looking = asyncio.Lock(), asyncio.Lock()
        self._troubles: int = 0
        self._trouble: StoreError | None = None
        """How many looks found the store away, and what the last of them raised."""

    async def roster(self) -> Roster:
        """Once the store knows the tiers of the code."""
        if not self._is_declared:
            async with self._declaring:
                if not self._is_declared:
                    await self._roster.declare(self._tiers, self._default)
                    self._is_declared = True
        return self._roster

    async def tell_lanes(self) -> None:
        """Bring the lanes that are there up to date with the tiers of the code; a store that is away is waited for."""
        never, is_told = asyncio.Event(), False
        while True:
            try:
                return await (await self.roster()).tell_lanes()
            except (StoreError, NamespaceFrozen) as exc:
                if not is_told:
                    log.warning("the tiers of tenants have to wait for the store", extra={"error": repr(exc)})
                is_told = True
            await self._kernel.wait(never, AGAIN_MS)

    def forget(self, tenant: str) -> None:
        """It was changed in this process."""
        for lane in [lane for lane in self._known if lane[1] == tenant]:
            del self._known[lane]

    async def admit(self, drafts: Sequence[Any]) -> None:
        """Before these jobs are written: their lanes have their limits, and they are counted.

        Follow-ups are not: what a run has done cannot be refused any more. Raises RateLimitError, TooLarge, StoreError,
        NamespaceFrozen, InvalidState.
        """
        new: dict[Lane, int] = {}
        for draft in drafts:
            lane = _lane_of(draft)
            if lane is not None:
                new[lane] = new.get(lane, 0) + (draft.parent_id is None)
        if not new:
            return
        rates = await self._rates(new)
        try:
            await self._count(new, rates)
        except (RateLimitError, TooLarge) as exc:
            # The tenant may have been given another tier since: who just bought one is not to wait.
            if self._are_fresh(new) or (now := await self._look(list(new))) == rates:
                self._tell(exc)
                raise
            await self._count_again(new, now)

    async def _count_again(self, new: Mapping[Lane, int], rates: Mapping[Lane, int | None]) -> None:
        try:
            await self._count(new, rates)
        except (RateLimitError, TooLarge) as exc:
            self._tell(exc)
            raise

    def _are_fresh(self, lanes: Collection[Lane]) -> bool:
        """Looked at a moment ago: who hammers at an empty bucket costs no more than that."""
        now_ms = self._kernel.now_ms()
        return all((known := self._known.get(lane)) and 0 <= now_ms - known.at_ms < FRESH_MS for lane in lanes)

    def _tell(self, error: RateLimitError | TooLarge) -> None:
        if isinstance(error, RateLimitError):
            about = {"tenant": tenant_of(error), "retry_after_ms": round(error.retry_after * 1000)}
            self._kernel.events.publish("tenancy:rate-limited", about)

    async def _count(self, new: Mapping[Lane, int], rates: Mapping[Lane, int | None]) -> None:
        counts: dict[str, int] = {}
        limits: dict[str, int] = {}
        for lane, count in new.items():
            rate = rates[lane]
            if rate is not None and count:
                counts[lane[1]] = counts.get(lane[1], 0) + count
                limits[lane[1]] = rate
        if counts:
            await self._roster.take(counts, limits)

    async def _rates(self, lanes: Collection[Lane]) -> dict[Lane, int | None]:
        """Enqueues a minute of their tenants, whose lanes have their limits now."""
        rates = self._remembered(lanes)
        if len(rates) < len(lanes):
            troubles = self._troubles
            async with self._looking:  # what many find out at once, one asks
                if self._troubles != troubles and self._trouble is not None:
                    raise self._trouble  # whoever we waited for has waited long enough
                rates = self._remembered(lanes)
                unknown = [lane for lane in lanes if lane not in rates]
                rates.update(await self._look(unknown) if unknown else {})
        return rates

    def _remembered(self, lanes: Collection[Lane]) -> dict[Lane, int | None]:
        now_ms, rates = self._kernel.now_ms(), {}
        for lane in lanes:
            known = self._known.get(lane)
            # The clock may have been set back since.
            if known is not None and 0 <= now_ms - known.at_ms < KNOWN_MS:
                rates[lane] = known.rate
        return rates

    async def _look(self, lanes: Sequence[Lane]) -> dict[Lane, int | None]:
        at_ms = self._kernel.now_ms()
        try:
            tiers = await (await self.roster()).align(lanes)
        except StoreError as exc:
            self._troubles, self._trouble = self._troubles + 1, exc
            raise
        rates = {lane: tiers[lane[1]].enqueues_per_minute for lane in lanes}
        for lane, rate in rates.items():
            self._known.pop(lane, None)
            self._known[lane] = _Known(at_ms, rate)
        while len(self._known) > KNOWN_MAX:
            del self._known[next(iter(self._known))]
        return rates


def _lane_of(draft: Any) -> Lane | None:
    """None: a job of no tenant, or one that middleware gave what the enqueue is about to refuse."""
    options = draft.options
    tenant = options.get("tenant")
    if tenant is None:
        return None
    queue = options.get("queue", draft.queue) if options.get("lane", tenant) == tenant else NOWHERE
    if name_problem(tenant) or (queue != NOWHERE and name_problem(queue)):
        return None
    # Of a member of an enumeration its value, as names are read elsewhere.
    return str.__str__(queue), str.__str__(tenant)
