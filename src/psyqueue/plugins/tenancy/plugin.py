"""`q.use(Tenancy({...}, default="free"))`: tenants that share queues, each with the limits of its tier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from psyqueue.errors import ConfigError, InvalidOption, NotStarted
from psyqueue.job import name_problem
from psyqueue.kernel.extension import Facade, Kernel, Page, blocking, read_cursor, read_limit
from psyqueue.plugins.tenancy.porter import Porter
from psyqueue.plugins.tenancy.roster import Roster
from psyqueue.plugins.tenancy.tier import TenantView, Tier


class Tenancy:
    """Gives the lanes of tenants the limits of their tiers, and bounds what a tenant enqueues. Add it with `use`.

    `tiers` by name; `default` is the one of a tenant that was assigned none. The store keeps both, and what a process
    goes by is what stands there. docs/tenancy.md describes the rest. Raises InvalidOption.
    """

    name = "tenancy"

    def __init__(self, tiers: Mapping[str, Tier], *, default: str) -> None:
        self._tiers = _read_tiers(tiers)
        if default not in self._tiers:
            raise InvalidOption("default", default, "is none of the tiers", f"There are {', '.join(self._tiers)}")
        self._default = str.__str__(default)
        self._kernel: Kernel | None = None
        self._porter: Porter | None = None
        """From the start of the queue to its stop."""

    # ── the plugin ────────────────────────────────────────────────────────────────────────────────────────────────────
    def init(self, kernel: Kernel) -> None:
        """Called by `use`. Raises ConfigError for a second queue."""
        if self._kernel is not None:
            raise ConfigError("this Tenancy belongs to another queue: make a new one for that")
        self._kernel = kernel
        kernel.expose("tenancy", self)
        kernel.service(self._tell_lanes)
        # Innermost: other middleware may say whose job it is, or turn it away before it is counted.
        kernel.pipeline("enqueue", self._admit, phase="finalize")

    def start(self) -> None:
        """Called when the queue starts."""
        self._porter = Porter(self._door(), self._tiers, self._default)

    def stop(self) -> None:
        """Called when it stops."""
        self._porter = None

    async def _tell_lanes(self) -> None:
        await self._entrance().tell_lanes()

    async def _admit(self, ctx: Any, call_next: Any) -> Any:
        await self._entrance().admit(ctx.jobs)
        return await call_next()

    # ── use ───────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def assign(self, tenant: str, tier: str) -> TenantView:
        """Give the tenant this tier, and its lanes in all queues the limits of it.

        Raises InvalidOption, also for a tier that is not in the store; NotStarted, StoreError, NamespaceFrozen. After a
        StoreError some lanes may be as before; a repeat goes on.
        """
        tenant, tier = _read_name("tenant", tenant), _read_name("tier", tier)
        return self._changed(await (await self._roster()).assign(tenant, tier))

    async def unassign(self, tenant: str) -> TenantView:
        """Give it the default tier again. Raises as `assign`."""
        return self._changed(await (await self._roster()).unassign(_read_name("tenant", tenant)))

    async def of(self, tenant: str) -> TenantView:
        """Its tier; any name has one. Raises InvalidOption, NotStarted, StoreError."""
        return await (await self._roster()).find(_read_name("tenant", tenant))

    async def list(self, *, limit: int = 50, cursor: str | None = None) -> Page[TenantView]:
        """A page of the tenants that were assigned a tier, by id. Raises InvalidOption, NotStarted, StoreError."""
        roster = await self._roster()
        return Page(*await roster.page(read_cursor(cursor), read_limit(limit)))

    @property
    def sync(self) -> SyncTenancy:
        """The same verbs for programs without asyncio, as calls that block: `tenancy.sync.assign(...)`.

        The first call starts the queue, as `q.sync` does. Raises ConfigError before `use`.
        """
        return SyncTenancy(self._door().portal, self)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _door(self) -> Kernel:
        if self._kernel is None:
            raise ConfigError("this Tenancy belongs to no queue yet: q.use(tenancy) first")
        return self._kernel

    def _entrance(self) -> Porter:
        self._door()
        if self._porter is None:
            raise NotStarted("tenants belong to a queue that is not started here: await q.start()")
        return self._porter

    async def _roster(self) -> Roster:
        return await self._entrance().roster()

    def _changed(self, view: TenantView) -> TenantView:
        self._entrance().forget(view.id)
        return view


class SyncTenancy(Facade[Tenancy]):
    """As Tenancy, with methods that block."""

    __slots__ = ()

    assign: Final = blocking(Tenancy.assign)
    unassign: Final = blocking(Tenancy.unassign)
    of: Final = blocking(Tenancy.of)
    list: Final = blocking(Tenancy.list)


def _read_name(option: str, given: Any) -> str:
    problem = name_problem(given)
    if problem:
        raise InvalidOption(option, given, problem)
    return str.__str__(given)  # of a member of an enumeration its value, as names are read elsewhere


def _read_tiers(given: Any) -> dict[str, Tier]:
    if not isinstance(given, Mapping) or not given:
        raise InvalidOption("tiers", given, "is no mapping of names to tiers", 'Give {"free": Tier(active_max=2)}')
    for name, tier in given.items():
        if not isinstance(tier, Tier):
            raise InvalidOption("tiers", tier, f"of {name!r} is {type(tier).__name__}, not Tier")
    return {_read_name("tiers", name): tier for name, tier in given.items()}
