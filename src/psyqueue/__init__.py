"""A job queue with one behaviour on SQLite, Redis and PostgreSQL.

from psyqueue import PsyQueue
from psyqueue.backends import sqlite

q = PsyQueue().use(sqlite(path="./jobs.db"))

@q.handle("email.send", max_retries=5)
async def send_email(to: str) -> str: ...

async with q:
    job = await send_email.enqueue("a@b.c")
"""

from __future__ import annotations

from psyqueue.clock import Duration
from psyqueue.errors import (
    AlreadyStopped,
    CircularDependencyError,
    ConfigError,
    DependencyError,
    DuplicateJobError,
    ForkedProcess,
    HandlerTimeout,
    IdConflict,
    InvalidOption,
    InvalidState,
    JobCancelled,
    JobDead,
    JobEnded,
    JobNotFound,
    KeyConflict,
    LifecycleError,
    MissingExtra,
    NamespaceFrozen,
    NamespaceMoved,
    NotStarted,
    PayloadError,
    PluginError,
    PsyQueueError,
    QueueFull,
    RateLimitError,
    Refused,
    Rejected,
    ResultTimeout,
    ScheduleNotFound,
    SchemaTooNew,
    SessionLost,
    StaleOp,
    StateConflict,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreUnavailable,
    StoreUnusable,
    TooLarge,
    UnknownDependency,
    WorkflowFailed,
)
from psyqueue.events import Event
from psyqueue.kernel.app import PsyQueue
from psyqueue.kernel.bus import EventBus
from psyqueue.kernel.context import Context
from psyqueue.kernel.depends import Depends
from psyqueue.kernel.enqueue import Draft, EnqueueContext
from psyqueue.kernel.extension import Kernel, Plugin
from psyqueue.kernel.handler import Call, Handler
from psyqueue.kernel.job_handle import JobHandle
from psyqueue.kernel.options import EnqueueOptions
from psyqueue.kernel.sync import SyncHandler, SyncJobHandle, SyncQueue, SyncWorker
from psyqueue.kernel.views import (
    Durability,
    Explanation,
    JobView,
    Page,
    Reason,
)
from psyqueue.kernel.worker import Worker
from psyqueue.outcome import (
    Cancel,
    DeadLetter,
    Retry,
    Snooze,
    Verdict,
)

__all__ = [
    "AlreadyStopped",
    "Call",
    "Cancel",
    "CircularDependencyError",
    "ConfigError",
    "Context",
    "DeadLetter",
    "DependencyError",
    "Depends",
    "Draft",
    "DuplicateJobError",
    "Durability",
    "Duration",
    "EnqueueContext",
    "EnqueueOptions",
    "Event",
    "EventBus",
    "Explanation",
    "ForkedProcess",
    "Handler",
    "HandlerTimeout",
    "IdConflict",
    "InvalidOption",
    "InvalidState",
    "JobCancelled",
    "JobDead",
    "JobEnded",
    "JobHandle",
    "JobNotFound",
    "JobView",
    "Kernel",
    "KeyConflict",
    "LifecycleError",
    "MissingExtra",
    "NamespaceFrozen",
    "NamespaceMoved",
    "NotStarted",
    "Page",
    "PayloadError",
    "Plugin",
    "PluginError",
    "PsyQueue",
    "PsyQueueError",
    "QueueFull",
    "RateLimitError",
    "Reason",
    "Refused",
    "Rejected",
    "ResultTimeout",
    "Retry",
    "ScheduleNotFound",
    "SchemaTooNew",
    "SessionLost",
    "Snooze",
    "StaleOp",
    "StateConflict",
    "StoreBusy",
    "StoreError",
    "StoreFull",
    "StoreUnavailable",
    "StoreUnusable",
    "SyncHandler",
    "SyncJobHandle",
    "SyncQueue",
    "SyncWorker",
    "TooLarge",
    "UnknownDependency",
    "Verdict",
    "Worker",
    "WorkflowFailed",
]
