"""Tiers, and which one a tenant has: as the store keeps them, and as they are shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from psyqueue.backend import Item, Limits
from psyqueue.errors import InvalidOption, InvalidState
from psyqueue.kernel.extension import checked_limit

T = TypeVar("T")

FORMAT = 1
LANE_SETTINGS: Final = ("weight", "active_max", "starts_per_minute", "starts_burst", "pending_max")
"""What a tier says of each lane; those that it does not name are as if nobody had given any."""
RATE_MAX: Final = 1_000_000_000


class Tier(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What each of its tenants may take; at least one field.

    `enqueues_per_minute` is the tenant's in all queues together. The others are those of `PsyQueue.limits`, and each
    lane of the tenant has them for itself. Raises InvalidOption.
    """

    weight: int | None = None
    active_max: int | None = None
    starts_per_minute: int | None = None
    starts_burst: int | None = None
    pending_max: int | None = None
    enqueues_per_minute: int | None = None

    def __post_init__(self) -> None:
        """Raises InvalidOption."""
        named = {field: value for field, value in asdict(self).items() if value is not None}
        if not named:
            raise InvalidOption("tiers", "Tier()", "names no limit", "Tier(weight=1) is one that limits nothing")
        rate = named.pop("enqueues_per_minute", 1)
        if type(rate) is not int or not 1 <= rate <= RATE_MAX:
            raise InvalidOption("enqueues_per_minute", rate, f"is no whole number from 1 to {RATE_MAX}")
        for option, value in named.items():
            checked_limit(option, value)
        if self.starts_burst is not None and self.starts_per_minute is None:
            problem = "is the burst of starts that nothing limits"
            raise InvalidOption("starts_burst", self.starts_burst, problem, "Give starts_per_minute, too")

    def limits(self, queue: str, tenant: str) -> Limits:
        """Of the tenant's lane there; the settings that count are LANE_SETTINGS."""
        return Limits(queue=queue, lane=tenant, **self._of_lane())

    @property
    def mark(self) -> bytes:
        """Stands for what it says of a lane; the same bytes for the same."""
        return msgspec.json.encode(self._of_lane())

    def _of_lane(self) -> dict[str, Any]:
        return {option: value for option in LANE_SETTINGS if (value := getattr(self, option)) is not None}


class TenantView(Struct, frozen=True, kw_only=True):
    """A tenant and its tier now, with what that tier allows. Not `is_assigned`: it has the one of all others."""

    id: str
    tier: str
    is_assigned: bool
    limits: Tier


class Assignment(Struct, frozen=True, kw_only=True):
    """The tier that a tenant was given."""

    tier: str
    format: int = FORMAT


class Tiers(Struct, frozen=True, kw_only=True):
    """All that were ever declared, by name; `declared` are those of the code that started last.

    One that code no longer has stays, so that its tenants keep what they have. `are_lanes_told`: the lanes in the store
    have had the limits of these tiers since they were declared.
    """

    tiers: dict[str, Tier]
    declared: tuple[str, ...]
    default: str
    are_lanes_told: bool = False
    format: int = FORMAT

    def redeclared(self, tiers: Mapping[str, Tier], default: str) -> Tiers:
        """With these of the code; the same where nothing differs."""
        new = Tiers(tiers={**self.tiers, **tiers}, declared=tuple(sorted(tiers)), default=default, are_lanes_told=True)
        return self if replace(self, are_lanes_told=True) == new else replace(new, are_lanes_told=False)

    @property
    def told(self) -> dict[str, Any]:
        """Those that are declared, for a line of a log."""
        return {name: msgspec.to_builtins(self.tiers[name]) for name in self.declared}

    def require(self, tier: Any) -> None:
        """Raises InvalidOption where none of this name is declared: nobody is given one that code has dropped."""
        if tier not in self.declared:
            problem = "is a tier that no code declares any more" if tier in self.tiers else "is no tier"
            raise InvalidOption("tier", tier, problem, f"There are {', '.join(self.declared)}")

    def view_of(self, tenant: str, assigned: Item | None) -> TenantView:
        """`assigned` is what the store has of the tenant. Raises InvalidState for what a later release wrote."""
        name = (
            self.default if assigned is None else decoded(assigned, Assignment, f"the tier of tenant {tenant!r}").tier
        )
        if name not in self.tiers:
            raise InvalidState(
                f"tenant {tenant!r} has the tier {name!r}, of which the store knows nothing: assign another"
            )
        return TenantView(id=tenant, tier=name, is_assigned=assigned is not None, limits=self.tiers[name])


NO_TIERS = Tiers(tiers={}, declared=(), default="")


def encoded(value: Assignment | Tiers) -> bytes:
    """The same bytes for the same value."""
    return msgspec.json.encode(value, order="deterministic")


def decoded(item: Item, kind: type[T], what: str) -> T:
    """`what` names it for people. Raises InvalidState for what a later release wrote."""
    try:
        found = msgspec.json.decode(item.value, type=kind)
    except (msgspec.MsgspecError, InvalidOption):
        found = None
    if found is None or getattr(found, "format", None) != FORMAT:
        raise InvalidState(f"{what} was written by a later release of psyqueue: use that one")
    return found
