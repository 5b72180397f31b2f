"""Tiers, tenants and their lanes in the store. Of two who change them at once, whoever is last sees the other."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeAlias, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from psyqueue.backend import BackendAdapter, Effects, Item, StateWrite
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.backend.compose import every_page
from psyqueue.errors import InvalidState, RateLimitError, StateConflict, TooLarge
from psyqueue.kernel.extension import Kernel
from psyqueue.plugins.tenancy.tier import LANE_SETTINGS, NO_TIERS, Assignment, TenantView, Tier, Tiers, decoded, encoded
from psyqueue.plugins.tenancy.till import Till

T = TypeVar("T")

Lane: TypeAlias = tuple[str, str]
"""A queue, and the tenant whose lane in it is meant."""

NOWHERE: Final = ""
"""In place of a queue: the tenant alone is meant, and no lane of its own."""

log: logging.Logger = logging.getLogger(__name__)

_TIERS: Final = "tenant-tiers"
_TENANT: Final = "tenant:"
_LANE: Final = "tenant-lane:"
_ENQUEUES: Final = "tenant-enqueues:"
_BETWEEN: Final = "\x1f"
"""Tenants and queues hold no control characters, so the join is unambiguous."""
_TRIES: Final = 20
"""Each one that fails means that somebody else changed a tier meanwhile: nobody does so without end."""
_LANES_AT_ONCE: Final = 200
"""Each is two keys to read; limits and a key to write."""
_MINUTE_MS: Final = 60_000


class Seen(Struct, frozen=True):
    """The tiers as they were read, with their version in the store; 0: there are none."""

    tiers: Tiers
    version: int


class Roster:
    """Between the plugin and its door. All of it raises StoreError, and what changes something NamespaceFrozen.

    It raises InvalidState where no process has declared tiers yet, or a later release did.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._till = Till(lambda takes: self._write(*takes))

    # ── tiers ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def tiers(self) -> Tiers:
        """All there are."""
        seen = await self._seen()
        if not seen.version:
            raise _undeclared()
        return seen.tiers

    async def declare(self, tiers: Mapping[str, Tier], default: str) -> None:
        """Tell the store of these tiers of the code; nothing is written where it knows them."""
        for _ in range(_TRIES):
            seen = await self._seen()
            new = seen.tiers.redeclared(tiers, default)
            if new is seen.tiers:
                return
            with suppress(StateConflict):
                await self._put_tiers(new, seen.version)
                if seen.version:
                    log.warning("tiers of tenants are others now", extra={"were": seen.tiers.told, "are": new.told})
                return
        raise _restless()

    async def tell_lanes(self) -> None:
        """Give all lanes what the tiers say, if nobody has done so since they were declared."""
        while not (seen := await self._seen()).tiers.are_lanes_told:
            cursor: str | None = None
            while True:
                items, cursor = await self._kernel.store.scan_state(_LANE, cursor, _LANES_AT_ONCE)
                await self.align([_lane_of(item) for item in items])
                if cursor is None:
                    break
            with suppress(StateConflict):  # somebody declared others meanwhile
                await self._put_tiers(replace(seen.tiers, are_lanes_told=True), seen.version)

    async def _seen(self) -> Seen:
        (item,) = await self._kernel.store.read_state((_TIERS,))
        return Seen(NO_TIERS, 0) if item is None else Seen(_tiers_in(item), item.version)

    async def _put_tiers(self, tiers: Tiers, expected: int) -> None:
        await self._write(StateWrite(kind="put", key=_TIERS, value=encoded(tiers), expected=expected))

    # ── tenants ───────────────────────────────────────────────────────────────────────────────────────────────────────
    async def find(self, tenant: str) -> TenantView:
        """Any tenant has a tier."""
        head, assigned = await self._kernel.store.read_state((_TIERS, _TENANT + tenant))
        return _tiers_in(head).view_of(tenant, assigned)

    async def page(self, cursor: str | None, limit: int) -> tuple[tuple[TenantView, ...], str | None]:
        """Some of the tenants that were given a tier, by id, and the cursor of the rest."""
        tiers = await self.tiers()
        items, rest = await self._kernel.store.scan_state(_TENANT, cursor, limit)
        return tuple(tiers.view_of(item.key.removeprefix(_TENANT), item) for item in items), rest

    async def assign(self, tenant: str, tier: str) -> TenantView:
        """Raises InvalidOption for a tier that is not there."""
        (await self.tiers()).require(tier)
        value = encoded(Assignment(tier=tier))
        return await self._change(StateWrite(kind="put", key=_TENANT + tenant, value=value), tenant)

    async def unassign(self, tenant: str) -> TenantView:
        """Give it the default tier again, whatever that will be."""
        return await self._change(StateWrite(kind="delete", key=_TENANT + tenant), tenant)

    async def _change(self, write: StateWrite, tenant: str) -> TenantView:
        """First the tenant, then its lanes: whoever looks in between finds what is new, and does the same."""
        before = await self.find(tenant)
        await self._write(write)
        view = await self.find(tenant)
        if view != before:
            self._kernel.events.publish("tenancy:assigned", {"tenant": tenant, "tier": view.tier})
        await self.align([(queue, tenant) for queue in await self.queues(tenant)])
        return view

    # ── lanes ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def queues(self, tenant: str) -> list[str]:
        """Those in which its lane was given limits, by name."""
        store, prefix = self._kernel.store, _LANE + tenant + _BETWEEN
        items = await every_page(lambda cursor: store.scan_state(prefix, cursor, ITEMS_MAX))
        return [_lane_of(item)[0] for item in items]

    async def align(self, lanes: Sequence[Lane]) -> dict[str, Tier]:
        """See to it that these lanes have the limits of the tiers of their tenants. Those tiers, by tenant."""
        found: dict[str, Tier] = {}
        for some in _parts(lanes, _LANES_AT_ONCE):
            found |= await self._align(some)
        return found

    async def _align(self, lanes: Sequence[Lane]) -> dict[str, Tier]:
        """Who wrote looks again: so the last one of all who write has seen the tier that was given last."""
        tenants = list(dict.fromkeys(tenant for _, tenant in lanes))
        own = [lane for lane in lanes if lane[0] != NOWHERE]
        keys = (_TIERS, *(_TENANT + tenant for tenant in tenants), *map(_lane_key, own))
        for _ in range(_TRIES):
            head, *items = await self._kernel.store.read_state(keys)
            tiers = _tiers_in(head)
            assigned, marks = items[: len(tenants)], dict(zip(own, items[len(tenants) :], strict=True))
            found = {each: tiers.view_of(each, item).limits for each, item in zip(tenants, assigned, strict=True)}
            stale = [lane for lane, item in marks.items() if item is None or item.value != found[lane[1]].mark]
            if not stale:
                return found
            await self._put_limits({lane: found[lane[1]] for lane in stale})
        raise _restless()

    async def _put_limits(self, wanted: Mapping[Lane, Tier]) -> None:
        """With a mark of each lane in the same step: it says which limits the lane was given."""
        limits = [tier.limits(*lane) for lane, tier in wanted.items()]
        marks = (StateWrite(kind="put", key=_lane_key(lane), value=tier.mark) for lane, tier in wanted.items())
        store, effects = self._kernel.store, Effects(writes=tuple(marks))
        await self._kernel.operate(lambda op: store.put_limits(op, limits, effects, only=LANE_SETTINGS))

    # ── enqueues ──────────────────────────────────────────────────────────────────────────────────────────────────────
    async def take(self, counts: Mapping[str, int], rates: Mapping[str, int]) -> None:
        """Count so many new jobs by tenant, all or none where they are up to 500 tenants.

        A bucket lives for a minute: then it is full again anyway. Raises RateLimitError; TooLarge for more than a
        bucket ever holds.
        """
        for tenant, count in counts.items():
            if count > rates[tenant]:
                text = f"{count} jobs of tenant {tenant!r} in one call, and its tier takes {rates[tenant]} a minute"
                raise TooLarge(f"{text}. Send them in several", limit=rates[tenant])
        writes = [_take(tenant, count, rates[tenant]) for tenant, count in counts.items()]
        for some in _parts(writes, ITEMS_MAX):
            await self._till.take(some)

    async def _write(self, *writes: StateWrite) -> None:
        store = self._kernel.store
        await self._kernel.operate(lambda op: store.write_state(op, Effects(writes=writes)))


async def dropped_tiers(store: BackendAdapter) -> Counter[str]:
    """Tiers that no code declares any more, with how many tenants have them. Raises StoreError."""
    (head,) = await store.read_state((_TIERS,))
    if head is None:
        return Counter()
    tiers = _tiers_in(head)
    if tiers.tiers.keys() <= set(tiers.declared):
        return Counter()
    items = await every_page(lambda cursor: store.scan_state(_TENANT, cursor, ITEMS_MAX))
    names = (tiers.view_of(item.key.removeprefix(_TENANT), item).tier for item in items)
    return Counter(name for name in names if name not in tiers.declared)


def tenant_of(error: RateLimitError) -> str:
    """Whose bucket was empty."""
    return error.key.removeprefix(_ENQUEUES)


def _take(tenant: str, count: int, rate: int) -> StateWrite:
    key = _ENQUEUES + tenant
    return StateWrite(kind="take", key=key, number=count, capacity=rate, refill_per_minute=rate, ttl_ms=_MINUTE_MS)


def _lane_key(lane: Lane) -> str:
    queue, tenant = lane
    return _LANE + tenant + _BETWEEN + queue


def _lane_of(item: Item) -> Lane:
    tenant, _, queue = item.key.removeprefix(_LANE).partition(_BETWEEN)
    return queue, tenant


def _tiers_in(item: Item | None) -> Tiers:
    if item is None:
        raise _undeclared()
    return decoded(item, Tiers, "what tiers there are")


def _undeclared() -> InvalidState:
    return InvalidState("there are no tiers yet: a process that has q.use(Tenancy(...)) declares them when it starts")


def _restless() -> InvalidState:
    return InvalidState("tiers of tenants change all the time: try again")


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
