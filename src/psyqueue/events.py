"""What happened, told after the store committed it. Facts only: nobody can veto an event."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct

from psyqueue.clock import to_datetime


class Event(Struct, frozen=True):
    """`type` is `family:what`, `data` JSON-like values under snake_case keys, shared by all subscribers: read only."""

    type: str
    at_ms: int
    data: dict[str, Any]

    @property
    def at(self) -> datetime:
        """When it was published, by this process's clock (UTC)."""
        return to_datetime(self.at_ms)


EVENTS: dict[str, tuple[str, ...]] = {
    "kernel:started": (),
    "kernel:stopped": (),
    "job:enqueued": ("job_id", "queue", "name"),
    "job:started": ("job_id", "queue", "name", "attempt"),
    "job:completed": ("job_id", "queue", "name", "result"),
    "job:failed": ("job_id", "queue", "name", "attempt", "error"),
    "job:retry": ("job_id", "queue", "name", "attempt", "delay_ms", "error"),
    "job:dead": ("job_id", "queue", "name", "attempt", "reason", "error"),
    "job:requeued": ("job_id", "queue", "name"),
    "job:snoozed": ("job_id", "queue", "name", "delay_ms"),
    "job:cancelled": ("job_id", "queue", "name", "reason"),
    "job:lease-lost": ("job_id", "queue", "name"),
    "job:recovered": ("count", "job_ids"),
    "job:replayed": ("job_id", "queue", "name"),
    "worker:started": ("worker", "queues"),
    "worker:stopped": ("worker",),
    "worker:error": ("worker", "error"),
    "schedule:fired": ("schedule_id", "job_id", "nominal_at_ms"),
    "schedule:failed": ("schedule_id", "nominal_at_ms", "error"),
    "workflow:started": ("workflow_id", "flow"),
    "workflow:completed": ("workflow_id",),
    "workflow:failed": ("workflow_id", "reason"),
    "circuit:opened": ("circuit", "until_ms"),
    "circuit:half-opened": ("circuit",),
    "circuit:closed": ("circuit",),
    "tenancy:assigned": ("tenant", "tier"),
    "tenancy:rate-limited": ("tenant", "retry_after_ms"),
    "service:error": ("service", "error", "restart_in_ms"),
}
"""Every event with the keys of its data. docs/events.md says when each is published."""
