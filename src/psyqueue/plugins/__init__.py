"""What a queue can be given with `use` beside its store."""

from __future__ import annotations

from psyqueue.plugins.circuit_breaker import CircuitBreaker, CircuitOpen, CircuitView, SyncCircuitBreaker
from psyqueue.plugins.metrics import Metrics, SyncMetrics
from psyqueue.plugins.scheduler import Schedules, ScheduleView, SyncSchedules, upcoming
from psyqueue.plugins.tenancy import SyncTenancy, Tenancy, TenantView, Tier
from psyqueue.plugins.tracing import Tracing, continue_trace
from psyqueue.plugins.workflows import Flow, SyncWorkflows, WorkflowRun, Workflows, WorkflowView, results_of

__all__ = [
    "CircuitBreaker",
    "CircuitOpen",
    "CircuitView",
    "Flow",
    "Metrics",
    "ScheduleView",
    "Schedules",
    "SyncCircuitBreaker",
    "SyncMetrics",
    "SyncSchedules",
    "SyncTenancy",
    "SyncWorkflows",
    "Tenancy",
    "TenantView",
    "Tier",
    "Tracing",
    "WorkflowRun",
    "WorkflowView",
    "Workflows",
    "continue_trace",
    "results_of",
    "upcoming",
]
