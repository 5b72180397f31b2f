"""Retention: what nobody needs any more goes, in bounded steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psyqueue.backend import Done, Limits
from psyqueue.backend.state_rules import CLOSED_SESSIONS_KEPT_MS, FIRES_KEPT_MS, OPS_KEPT_MS
from psyqueue.backends._memory.state import Row, Store
from psyqueue.backends._memory.tables import Table
from psyqueue.job import Status


def prune(store: Store, limit: int, now_ms: int) -> Done:
    mono_ms = store.mono_ms()
    ids = _prune_jobs(store, limit, now_ms)
    is_more = len(ids) >= limit
    expired: list[tuple[Table[Any, Any], list[Any]]] = [
        (store.kept, [key for key, kept in store.kept.items() if kept.expires_mono_ms <= mono_ms]),
        (store.cells, [key for key, cell in store.cells.items() if _is_over(cell.expires_mono_ms, mono_ms)]),
        (store.records, [key for key, line in store.records.items() if _is_over(line.expires_mono_ms, mono_ms)]),
        (store.turns, [key for key, turn in store.turns.items() if turn.at_mono_ms <= mono_ms - OPS_KEPT_MS]),
        (store.fires, [key for key, at_mono_ms in store.fires.items() if at_mono_ms <= mono_ms - FIRES_KEPT_MS]),
        (store.sessions, _forgotten_sessions(store, mono_ms)),
        (store.lane_time, _idle_lanes(store)),
    ]
    for table, keys in expired:
        for key in sorted(keys)[:limit]:
            table.drop(key)
        is_more |= len(keys) > limit
    return Done(tuple(ids), more=is_more)


def is_needed(store: Store, row: Row) -> bool:
    """A job that has not ended lists it among its needs: it keeps its parents."""
    return row.job.id in store.children


def _is_over(expires_mono_ms: int | None, mono_ms: int) -> bool:
    return expires_mono_ms is not None and expires_mono_ms <= mono_ms


def _prune_jobs(store: Store, limit: int, now_ms: int) -> list[str]:
    ids: list[str] = []
    for queue in sorted({name for name, _ in store.tally}):
        limits = store.limits.get((queue, None), Limits(queue=queue))
        kinds: Iterable[tuple[tuple[Status, ...], tuple[int, int] | None]] = (
            (("completed", "cancelled"), limits.retain_ended),
            (("dead",), limits.retain_dead),
        )
        for statuses, retention in kinds:
            if retention is not None and len(ids) < limit:
                ids += _prune_kind(store, queue, statuses, retention, limit - len(ids), now_ms)
    return ids


def _prune_kind(
    store: Store, queue: str, statuses: tuple[Status, ...], retention: tuple[int, int], limit: int, now_ms: int
) -> list[str]:
    """First what is too old, then what is too much; oldest end first, never a job that is needed or held."""
    keep_ms, keep_count = retention
    excess = store.count(queue, *statuses) - keep_count
    rows = [row for row in store.rows.values() if row.job.queue == queue and row.status in statuses]
    rows.sort(key=lambda row: (row.completed_at_ms or 0, row.number))
    free = [row for row in rows if not row.held and not is_needed(store, row)]
    aged = sum(1 for row in free if (row.completed_at_ms or 0) <= now_ms - keep_ms)
    doomed = free[: min(limit, max(aged, excess))]
    for row in doomed:
        store.drop_row(row)
    return [row.job.id for row in doomed]


def _forgotten_sessions(store: Store, mono_ms: int) -> list[str]:
    return [
        session_id
        for session_id, lease in store.sessions.items()
        if lease.closed_mono_ms is not None
        and lease.closed_mono_ms <= mono_ms - CLOSED_SESSIONS_KEPT_MS
        and session_id not in store.holding
    ]


def _idle_lanes(store: Store) -> list[tuple[str, str]]:
    """Lanes without jobs or settings that have no claim saved up or lost: forgetting them changes no order."""
    return [
        (queue, lane)
        for (queue, lane), at in store.lane_time.items()
        if lane
        and (queue, lane) not in store.lane_unstarted
        and (queue, lane) not in store.lane_active
        and (queue, lane) not in store.limits
        and at <= store.queue_time.get(queue, 0)
    ]
