"""Tenants that share queues: each has a tier, and its lanes have the limits of it, in all processes at once."""

from __future__ import annotations

from psyqueue.plugins.tenancy.plugin import SyncTenancy, Tenancy
from psyqueue.plugins.tenancy.tier import TenantView, Tier

__all__ = ["SyncTenancy", "Tenancy", "TenantView", "Tier"]
