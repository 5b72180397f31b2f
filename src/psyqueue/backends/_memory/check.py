"""Broken invariants of the memory store, in words."""

from __future__ import annotations

from collections import Counter

from psyqueue.backends._memory.state import Row, Store
from psyqueue.job import ERRORS_KEPT, TERMINAL


def broken(store: Store, cursor: str | None, limit: int) -> tuple[tuple[str, ...], str | None]:
    """`limit` jobs a call, in order of id; what concerns the whole store is said with the first page."""
    ids = sorted(job_id for job_id in store.rows if cursor is None or job_id > cursor)
    words = [] if cursor is not None else _of_store(store)
    for job_id in ids[:limit]:
        words += [f"job {job_id}: {problem}" for problem in _of_row(store, store.rows[job_id])]
    return tuple(words), ids[limit - 1] if len(ids) > limit else None


def _of_store(store: Store) -> list[str]:
    words = []
    counted = Counter((row.job.queue, row.status) for row in store.rows.values())
    if dict(counted) != dict(store.tally):
        words.append(f"tally {dict(store.tally)} is not the recount {dict(counted)}")
    places = Counter(row.job.gate.key for row in store.rows.values() if row.has_place and row.job.gate)
    if dict(places) != {key: count for key, count in store.places.items() if count}:
        words.append(f"gate places {dict(store.places)} are not the recount {dict(places)}")
    tokens = [row.token for row in store.rows.values() if row.token is not None]
    if len(tokens) != len(set(tokens)):
        words.append("two deliveries share a completion token")
    return words


def _of_row(store: Store, row: Row) -> list[str]:
    problems = {
        "active, token and session go together": (row.status == "active")
        == (row.token is not None)
        == (row.session_id is not None),
        "its session does not list it": row.session_id is None or row.job.id in store.holding.get(row.session_id, ()),
        "an ended job has its time of end": (row.status in TERMINAL) == (row.completed_at_ms is not None),
        "pending has a ready number": row.status != "pending" or row.ready_number is not None,
        "attempt is within its retries": 0 <= row.attempt <= row.job.max_retries + 1,
        "fence is at least attempt": row.fence >= row.attempt,
        "unmet needs are counted": row.status != "waiting" or row.needs_left == _unmet(store, row),
        "an ended job holds no place": not (row.has_place and row.status in TERMINAL),
        "errors are bounded": len(row.errors) <= ERRORS_KEPT,
        "active is not held": not (row.held and row.status == "active"),
    }
    return [promise for promise, holds in problems.items() if not holds]


def _unmet(store: Store, row: Row) -> int:
    edges = (store.edges.get((need.job_id, row.job.id)) for need in row.job.needs)
    return sum(1 for edge in edges if edge is not None and not edge.met)
