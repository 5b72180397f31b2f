"""Stores and plugins that go together, for `PsyQueue.from_preset`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from psyqueue.kernel.extension import Preset
from psyqueue.plugins.metrics import Metrics
from psyqueue.plugins.scheduler import Schedules
from psyqueue.plugins.tenancy import Tenancy, Tier
from psyqueue.plugins.tracing import Tracing
from psyqueue.plugins.workflows import Workflows

_ONE_TIER: Final = {"all": Tier(weight=1)}


def _tenancy(tiers: Mapping[str, Tier] = _ONE_TIER, default: str = "all") -> Tenancy:
    """Without tiers tenants only take turns."""
    return Tenancy(tiers, default=default)


LITE: Final = Preset("sqlite:./jobs.db", {"schedules": Schedules})
SAAS: Final = Preset(
    "redis://localhost",
    {"schedules": Schedules, "workflows": Workflows, "tenancy": _tenancy, "metrics": Metrics},
)
ENTERPRISE: Final = Preset(
    "postgresql://localhost",
    {**SAAS.plugins, "tracing": Tracing},
)
