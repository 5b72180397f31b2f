"""How queues are doing: one word and a few numbers each, from one look at the store or from two."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import Struct

from psyqueue.backend import BackendAdapter, QueueInfo, SessionInfo
from psyqueue.backend.compose import all_queues, all_sessions
from psyqueue.backend.reading import is_paused
from psyqueue.clock import SystemClock
from psyqueue.job import TERMINAL


class Snapshot(Struct, frozen=True, kw_only=True):
    """One look; `mono_ms` is this machine's, for rates."""

    store: str
    mode: str
    warnings: Sequence[str] = ()
    now_ms: int
    mono_ms: float
    queues: Sequence[QueueInfo]
    sessions: Sequence[SessionInfo]


class QueueLine(Struct, frozen=True, kw_only=True):
    """Rates a second since the look before; None at the first, and where jobs were deleted meanwhile."""

    queue: str
    state: str
    pending: int
    active: int
    scheduled: int
    waiting: int
    dead: int
    ended_per_second: float | None
    dead_per_second: float | None
    oldest_pending_ms: int | None
    workers: int


async def look(backend: BackendAdapter) -> Snapshot:
    """At all queues and workers. Raises StoreError."""
    info = await backend.info()
    return Snapshot(
        store=f"{info.store} {info.version}",
        mode=info.mode,
        warnings=info.warnings,
        now_ms=info.now_ms,
        mono_ms=SystemClock().mono_ms(),
        queues=await all_queues(backend),
        sessions=await all_sessions(backend),
    )


def queue_lines(seen: Snapshot, before: Snapshot | None) -> list[QueueLine]:
    """The busiest first: those with the most unstarted and running jobs."""
    served = [name for info in seen.sessions for name in info.session.queues if info.expires_in_ms >= 0]
    old = {info.queue: info for info in before.queues} if before is not None else {}
    passed_s = 0.0 if before is None else (seen.mono_ms - before.mono_ms) / 1000
    lines = []
    for info in seen.queues:
        counts, last = info.counts, old.get(info.queue)
        oldest_ms = info.oldest_pending_at_ms
        lines.append(
            QueueLine(
                queue=info.queue,
                state=state_of(info, set(served), seen.now_ms),
                pending=counts.get("pending", 0),
                active=counts.get("active", 0),
                scheduled=counts.get("scheduled", 0),
                waiting=counts.get("waiting", 0),
                dead=counts.get("dead", 0),
                ended_per_second=_rate(info, last, tuple(TERMINAL), passed_s),
                dead_per_second=_rate(info, last, ("dead",), passed_s),
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


def _rate(info: QueueInfo, last: QueueInfo | None, statuses: Sequence[str], passed_s: float) -> float | None:
    if last is None or passed_s <= 0:
        return None
    more = sum(info.counts.get(status, 0) - last.counts.get(status, 0) for status in statuses)
    return None if more < 0 else round(more / passed_s, 1)
