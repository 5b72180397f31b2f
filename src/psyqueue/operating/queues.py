"""How queues are doing: one word and a few numbers each."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import Struct

from psyqueue.backend import BackendAdapter, QueueInfo, SessionInfo
from psyqueue.backend.compose import all_queues, all_sessions
from psyqueue.backend.reading import is_paused
from psyqueue.kernel.throughput import Rates, rates_at


class Snapshot(Struct, frozen=True, kw_only=True):
    """One look."""

    store: str
    mode: str
    moved_to: str = ""
    warnings: Sequence[str] = ()
    now_ms: int
    rates: Rates
    queues: Sequence[QueueInfo]
    sessions: Sequence[SessionInfo]


class QueueLine(Struct, frozen=True, kw_only=True):
    """Rates are of what workers did in the last 20 s or so; what `process_next` runs is not counted."""

    queue: str
    state: str
    pending: int
    active: int
    scheduled: int
    waiting: int
    dead: int
    ended_per_second: float
    dead_per_second: float
    oldest_pending_ms: int | None
    workers: int


async def look(backend: BackendAdapter) -> Snapshot:
    """At all queues and workers. Raises StoreError."""
    info = await backend.info()
    return Snapshot(
        store=f"{info.store} {info.version}",
        mode=info.mode,
        moved_to=info.moved_to,
        warnings=info.warnings,
        now_ms=info.now_ms,
        rates=await rates_at(backend, info.now_ms),
        queues=await all_queues(backend),
        sessions=await all_sessions(backend),
    )


def queue_lines(seen: Snapshot) -> list[QueueLine]:
    """The busiest first: those with the most unstarted and running jobs."""
    served = [name for info in seen.sessions for name in info.session.queues if info.expires_in_ms >= 0]
    lines = []
    for info in seen.queues:
        counts, oldest_ms = info.counts, info.oldest_pending_at_ms
        lines.append(
            QueueLine(
                queue=info.queue,
                state=state_of(info, set(served), seen.now_ms),
                pending=counts.get("pending", 0),
                active=counts.get("active", 0),
                scheduled=counts.get("scheduled", 0),
                waiting=counts.get("waiting", 0),
                dead=counts.get("dead", 0),
                ended_per_second=seen.rates.of(info.queue),
                dead_per_second=seen.rates.of(info.queue, ("dead",)),
                oldest_pending_ms=None if oldest_ms is None else max(0, seen.now_ms - oldest_ms),
                workers=served.count(info.queue),
            )
        )
    return sorted(lines, key=lambda line: (-(line.pending + line.active), line.queue))


def state_of(info: QueueInfo, served: Collection[str], now_ms: int) -> str:
    """One word: paused, running, stalled (jobs are pending, and no worker takes them), idle."""
    if is_paused(info.limits, now_ms):
        return "paused"
    if info.counts.get("active", 0):
        return "running"
    return "stalled" if info.counts.get("pending", 0) and info.queue not in served else "idle"
