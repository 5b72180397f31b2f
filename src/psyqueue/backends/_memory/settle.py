"""Outcomes of deliveries, and what happens to the jobs of a worker that is gone."""

from __future__ import annotations

from collections.abc import Sequence

from psyqueue.backend import (
    Ack,
    AnyOutcome,
    Cancelled,
    Dead,
    Done,
    Fetch,
    Keep,
    Release,
    Retry,
    Settled,
    SettleReply,
    Snooze,
)
from psyqueue.backend.bounds import PROMOTE_MAX
from psyqueue.backend.losses import lost_error
from psyqueue.backend.state_rules import REAPER_SILENCE_MS
from psyqueue.backends._memory import intake, lifecycle
from psyqueue.backends._memory.dequeue import dequeue, next_start_in_ms
from psyqueue.backends._memory.state import Lease, Row, Store
from psyqueue.errors import Refused
from psyqueue.job import ERRORS_KEPT, lost_delay_ms


def settle(
    store: Store, session_id: str, outcomes: Sequence[AnyOutcome], fetch: Fetch | None, now_ms: int
) -> SettleReply:
    """The session is open and the mode allows what is asked: both were looked at before."""
    settled = tuple(_settle_one(store, session_id, outcome, now_ms) for outcome in outcomes)
    if fetch is None:
        is_left_over = lifecycle.follow_through(store, now_ms)
        return SettleReply(settled, cancel_requested=cancel_requested(store, session_id), more=is_left_over)
    _, more_expired = lifecycle.expire(store, fetch.queues, now_ms)
    _, more_due = lifecycle.promote(store, fetch.queues, now_ms, PROMOTE_MAX)
    is_left_over = lifecycle.follow_through(store, now_ms)
    deliveries, is_bounded = dequeue(store, session_id, fetch, now_ms)
    return SettleReply(
        settled,
        tuple(deliveries),
        cancel_requested(store, session_id),
        more=is_bounded or more_expired or more_due or is_left_over,
        next_due_in_ms=_next_in_ms(store, fetch.queues, now_ms),
        held=len(store.holding.get(session_id, ())) if fetch.counts else None,
    )


def _next_in_ms(store: Store, queues: Sequence[str], now_ms: int) -> int | None:
    due_ms = lifecycle.next_due_in_ms(store, queues, now_ms)
    start_ms = next_start_in_ms(store, queues, now_ms)
    return min((each for each in (due_ms, start_ms) if each is not None), default=None)


def cancel_requested(store: Store, session_id: str) -> tuple[str, ...]:
    rows = [store.rows[job_id] for job_id in store.holding.get(session_id, ())]
    rows.sort(key=lambda row: row.number)
    return tuple(row.job.id for row in rows if row.cancel_requested)


def _settle_one(store: Store, session_id: str, outcome: AnyOutcome, now_ms: int) -> Settled:
    row = store.rows.get(outcome.job_id)
    if row is None:
        return Settled(outcome.job_id, "lost", None)
    if row.status != "active" or row.token != outcome.completion_token or row.session_id != session_id:
        is_repeat = row.settled_token is not None and row.settled_token == outcome.completion_token
        return Settled(outcome.job_id, "already" if is_repeat else "lost", row.status)
    savepoint = store.journal.mark()
    try:
        _, enqueued = intake.apply_effects(store, outcome.effects, now_ms)
    except Refused:
        store.journal.roll_back(savepoint)
        return Settled(outcome.job_id, "conflict", "active")
    # An effect may have changed this very row (a need on it, for example): read it again.
    row = _apply(store, store.rows[outcome.job_id], outcome, now_ms)
    return Settled(outcome.job_id, "ok", row.status, tuple(enqueued))


def _apply(store: Store, row: Row, outcome: AnyOutcome, now_ms: int) -> Row:
    match outcome:
        case Keep():
            return row
        case Ack(result=result):
            return lifecycle.end(store, row, "completed", now_ms, result=None if result == b"null" else result)
        case Cancelled(reason=reason):
            return lifecycle.end(store, row, "cancelled", now_ms, reason=reason or row.reason)
        case Dead(error=error, reason=reason):
            return lifecycle.end(store, with_error(store, row, error), "dead", now_ms, reason=reason)
        case Retry(error=error, delay_ms=delay_ms):
            row = with_error(store, row, error)
            if row.cancel_requested:
                return lifecycle.end(store, row, "cancelled", now_ms, reason=row.reason)
            if row.attempt > row.job.max_retries:
                return lifecycle.end(store, row, "dead", now_ms, reason="exhausted")
            return _back(store, row, "scheduled", run_at_ms=now_ms + delay_ms)
        case Snooze(delay_ms=delay_ms, reason=reason):
            if row.cancel_requested:
                return lifecycle.end(store, row, "cancelled", now_ms, reason=row.reason)
            return _back(store, row, "scheduled", run_at_ms=now_ms + delay_ms, attempt=row.attempt - 1, reason=reason)
        case Release():
            if row.cancel_requested:
                return lifecycle.end(store, row, "cancelled", now_ms, reason=row.reason)
            return _back(store, row, "pending", attempt=row.attempt - 1)


def _back(store: Store, row: Row, status: str, **fields: object) -> Row:
    """Active → pending at its old place, or scheduled without one; the token counts as settled."""
    assert row.session_id is not None
    store.let_go_delivery(row.session_id, row.job.id)
    ready_number = row.ready_number if status == "pending" else None
    return store.change(
        row,
        status=status,
        token=None,
        settled_token=row.token,
        session_id=None,
        ready_number=ready_number,
        **fields,
    )


def with_error(store: Store, row: Row, error: bytes) -> Row:
    return store.change(row, errors=(*row.errors, error)[-ERRORS_KEPT:])


# ── the end of a session ──────────────────────────────────────────────────────────────────────────────────────────────
def close_session(store: Store, session_id: str, limit: int, now_ms: int) -> Done:
    """Close, then release what it holds, in order of creation."""
    lease = store.sessions.get(session_id)
    if lease is None:
        return Done()
    if lease.closed_mono_ms is None:
        _close(store, lease)
    rows = _held_rows(store, session_id)
    for row in rows[:limit]:
        if row.cancel_requested:
            lifecycle.end(store, row, "cancelled", now_ms, reason=row.reason)
        else:
            _back(store, row, "pending", attempt=row.attempt - 1)
    lifecycle.follow_through(store, now_ms)
    return Done(tuple(row.job.id for row in rows[:limit]), more=len(rows) > limit)


def reap(store: Store, limit: int, now_ms: int) -> Done:
    mono_ms = store.mono_ms()
    silence_ms = mono_ms - store.reaped_mono_ms
    store.reaped_mono_ms = mono_ms
    open_leases = [lease for lease in store.sessions.values() if lease.closed_mono_ms is None]
    if silence_ms > REAPER_SILENCE_MS:
        for lease in open_leases:
            _extend(store, lease)
        return Done()
    expired = sorted(
        (lease for lease in open_leases if lease.until_mono_ms <= mono_ms),
        key=lambda lease: (lease.until_mono_ms, lease.session.id),
    )
    for lease in expired[:limit]:
        _close(store, lease)
    closed = sorted(session_id for session_id in store.holding if store.sessions[session_id].closed_mono_ms is not None)
    rows = [row for session_id in closed for row in _held_rows(store, session_id)]
    for row in rows[:limit]:
        _take_back(store, row, now_ms)
    lifecycle.follow_through(store, now_ms)
    return Done(tuple(row.job.id for row in rows[:limit]), more=len(rows) > limit or len(expired) > limit)


def _extend(store: Store, lease: Lease) -> Lease:
    until_ms = max(lease.until_mono_ms, store.mono_ms() + lease.session.lease_ms)
    extended = Lease(session=lease.session, until_mono_ms=until_ms, opened_at_ms=lease.opened_at_ms)
    store.sessions[lease.session.id] = extended
    return extended


renew = _extend


def _close(store: Store, lease: Lease) -> None:
    store.sessions[lease.session.id] = Lease(
        session=lease.session,
        until_mono_ms=lease.until_mono_ms,
        opened_at_ms=lease.opened_at_ms,
        closed_mono_ms=store.mono_ms(),
    )


def _held_rows(store: Store, session_id: str) -> list[Row]:
    rows = [store.rows[job_id] for job_id in store.holding.get(session_id, ())]
    return sorted(rows, key=lambda row: row.number)


def _take_back(store: Store, row: Row, now_ms: int) -> None:
    """A lost delivery: its token is void at once, so that a late outcome is `lost`."""
    assert row.session_id is not None
    session = store.sessions[row.session_id].session
    store.let_go_delivery(session.id, row.job.id)
    error = lost_error(session.worker, session.id, row.attempt, now_ms)
    row = store.change(row, token=None, settled_token=None, session_id=None, lost=row.lost + 1)
    row = with_error(store, row, error)
    if row.cancel_requested:
        lifecycle.end(store, row, "cancelled", now_ms, reason=row.reason)
    elif row.lost > row.job.max_lost:
        lifecycle.end(store, row, "dead", now_ms, reason="lost")
    elif row.attempt > row.job.max_retries:
        lifecycle.end(store, row, "dead", now_ms, reason="exhausted")
    elif row.lost == 1:
        store.change(row, status="pending")
    else:
        store.change(row, status="scheduled", ready_number=None, run_at_ms=now_ms + lost_delay_ms(row.lost))
