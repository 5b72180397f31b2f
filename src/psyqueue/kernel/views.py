"""What people read: jobs, pages, explanations, durability. Decoded; built from the seam's structs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Generic, TypeVar

from msgspec import Struct

from psyqueue import codec
from psyqueue.backend import Info, Survives
from psyqueue.backend import JobView as StoredJob
from psyqueue.clock import to_datetime
from psyqueue.job import Status
from psyqueue.kernel.options import unscoped

T = TypeVar("T")


class JobView(Struct, frozen=True, kw_only=True):
    """Everything there is to know about one job, at one moment.

    Instants are aware datetimes in UTC, durations milliseconds. `errors` are those of failed and lost runs, oldest
    first, at most 20. `progress` is what the handler said last (`get` and `refresh` only).
    `run_at` is when it may start, in the past for a job that may start now.
    """

    id: str
    queue: str
    name: str
    payload: Any
    status: Status
    priority: int
    attempt: int
    max_retries: int
    lost: int
    max_lost: int
    generation: int
    fence: int
    lane: str
    reason: str
    result: Any
    progress: Any
    errors: tuple[dict[str, Any], ...]
    created_at: datetime
    run_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime | None
    deadline: datetime | None
    tenant_id: str | None
    unique_key: str | None
    idempotency_key: str | None
    order_key: str | None
    needs: tuple[str, ...]
    schedule_id: str | None
    nominal_at: datetime | None
    parent_id: str | None
    schema_version: int
    backoff: str | None
    backoff_base_ms: int | None
    backoff_cap_ms: int | None
    backoff_jitter: bool | None
    timeout_ms: int | None
    meta: dict[str, Any]
    trace: dict[str, str]
    session_id: str | None
    worker: str | None
    ready_number: int | None
    held: bool
    cancel_requested: bool
    blocked_by: tuple[str, ...]


class Page(Struct, Generic[T], frozen=True):
    """Some of many. `cursor` gets the next page; None is the end (a page before it may be short, even empty)."""

    items: tuple[T, ...]
    cursor: str | None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class Reason(Struct, frozen=True):
    """`code` for machines, `text` for people."""

    code: str
    text: str


class Explanation(Struct, frozen=True):
    """Why a job is where it is: the reasons why it does not run, or how it ended."""

    id: str
    status: Status
    reasons: tuple[Reason, ...]


class Durability(Struct, frozen=True, kw_only=True):
    """What an accepted job survives on this store, as its server is set up now."""

    store: str
    version: str
    process_crash: Survives
    server_crash: Survives
    power_loss: Survives
    failover: Survives
    warnings: tuple[str, ...]


def view_of(stored: StoredJob, progress: bytes | None = None) -> JobView:
    """The public view of a stored job; `progress` is kept beside it."""
    job = stored.job
    cold = codec.decode(job.cold)
    return JobView(
        id=job.id,
        queue=job.queue,
        name=job.name,
        payload=codec.decode(job.payload),
        status=stored.status,
        priority=job.priority,
        attempt=stored.attempt,
        max_retries=job.max_retries,
        lost=stored.lost,
        max_lost=job.max_lost,
        generation=stored.generation,
        fence=stored.fence,
        lane=job.lane,
        reason=stored.reason,
        result=None if stored.result is None else codec.decode(stored.result),
        progress=None if progress is None else codec.decode(progress),
        errors=tuple(codec.decode(error) for error in stored.errors),
        created_at=to_datetime(stored.created_at_ms),
        run_at=to_datetime(stored.run_at_ms),
        started_at=_instant(stored.started_at_ms),
        completed_at=_instant(stored.completed_at_ms),
        expires_at=_instant(stored.expires_at_ms),
        deadline=_instant(cold.get("deadline_at_ms")),
        tenant_id=cold.get("tenant_id"),
        unique_key=unscoped(job.unique.key) if job.unique else None,
        idempotency_key=unscoped(job.idempotency.key) if job.idempotency else None,
        order_key=unscoped(job.gate.key) if job.gate else None,
        needs=tuple(need.job_id for need in job.needs),
        schedule_id=job.schedule_id,
        nominal_at=_instant(cold.get("nominal_at_ms")),
        parent_id=cold.get("parent_id"),
        schema_version=cold.get("schema_version", 1),
        backoff=cold.get("backoff"),
        backoff_base_ms=cold.get("backoff_base_ms"),
        backoff_cap_ms=cold.get("backoff_cap_ms"),
        backoff_jitter=cold.get("backoff_jitter"),
        timeout_ms=cold.get("timeout_ms"),
        meta=cold.get("meta", {}),
        trace=cold.get("trace", {}),
        session_id=stored.session_id,
        worker=stored.worker,
        ready_number=stored.ready_number,
        held=stored.held,
        cancel_requested=stored.cancel_requested,
        blocked_by=stored.blocked_by,
    )


def durability_of(info: Info) -> Durability:
    """The part of the store's facts that says what survives what."""
    return Durability(
        store=info.store,
        version=info.version,
        process_crash=info.process_crash,
        server_crash=info.server_crash,
        power_loss=info.power_loss,
        failover=info.failover,
        warnings=info.warnings,
    )


def _instant(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else to_datetime(at_ms)
