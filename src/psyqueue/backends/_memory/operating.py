"""What operators see and change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from psyqueue.backend import (
    Amended,
    Change,
    Effects,
    Enqueued,
    Filter,
    Holders,
    JobView,
    Limits,
    Lock,
    NewJob,
    Page,
    QueueInfo,
    Schedule,
    SessionInfo,
)
from psyqueue.backend.reading import are_defaults, limits_over
from psyqueue.backends._memory import intake, lifecycle
from psyqueue.backends._memory.dequeue import blocks
from psyqueue.backends._memory.maintenance import is_needed
from psyqueue.backends._memory.state import Holder, Row, Store
from psyqueue.errors import InvalidOption, StateConflict
from psyqueue.job import STATUSES, TERMINAL, UNSTARTED, Status

_decode_place = msgspec.json.Decoder(tuple[str, int, int]).decode


def view(store: Store, row: Row, now_ms: int) -> JobView:
    lease = store.sessions.get(row.session_id) if row.session_id is not None else None
    return JobView(
        job=replace(row.job, delay_ms=0, run_at_ms=row.run_at_ms, expires_in_ms=None),
        status=row.status,
        attempt=row.attempt,
        lost=row.lost,
        generation=row.generation,
        fence=row.fence,
        ready_number=row.ready_number,
        session_id=row.session_id,
        worker=lease.session.worker if lease else None,
        held=row.held,
        cancel_requested=row.cancel_requested,
        reason=row.reason,
        created_at_ms=row.created_at_ms,
        started_at_ms=row.started_at_ms,
        completed_at_ms=row.completed_at_ms,
        run_at_ms=row.run_at_ms,
        expires_at_ms=row.expires_at_ms,
        result=row.result if row.result is not None or row.status != "completed" else b"null",
        errors=row.errors,
        blocked_by=blocks(store, row, now_ms),
    )


def matches(row: Row, where: Filter) -> bool:
    job = row.job
    return (
        (not where.ids or job.id in where.ids)
        and (not where.queues or job.queue in where.queues)
        and (not where.statuses or row.status in where.statuses)
        and (not where.names or job.name in where.names)
        and (not where.lanes or job.lane in where.lanes)
        and (where.created_from_ms is None or row.created_at_ms >= where.created_from_ms)
        and (where.created_to_ms is None or row.created_at_ms < where.created_to_ms)
        and (
            where.ended_before_ms is None
            or (row.completed_at_ms is not None and row.completed_at_ms < where.ended_before_ms)
        )
        and (not where.reason or row.reason == where.reason)
        and (not where.text or _contains(job, where.text))
    )


def _contains(job: NewJob, text: str) -> bool:
    raw = text.encode()
    return text in job.id or text in job.name or raw in job.payload or raw in job.cold


def list_jobs(store: Store, where: Filter, cursor: str | None, limit: int, now_ms: int) -> Page:
    after = _place_in(cursor) if cursor is not None else None
    found = [(_place(row), row) for row in store.rows.values() if matches(row, where)]
    rows = sorted((pair for pair in found if after is None or pair[0] > after), key=lambda pair: pair[0])
    page = rows[:limit]
    is_last = len(rows) <= limit
    return Page(
        tuple(view(store, row, now_ms) for _, row in page),
        None if is_last else msgspec.json.encode(page[-1][0]).decode(),
    )


def _place_in(cursor: str) -> tuple[Any, ...]:
    try:
        return _decode_place(cursor)
    except msgspec.MsgspecError as exc:
        raise InvalidOption("cursor", cursor, "is not one that this store gave out") from exc


def _place(row: Row) -> tuple[Any, ...]:
    return (row.job.queue, STATUSES.index(row.status), row.number)


def queues(store: Store, prefix: str, cursor: str | None, limit: int) -> tuple[tuple[QueueInfo, ...], str | None]:
    names = {queue for queue, _ in store.tally} | {queue for queue, _ in store.limits}
    names = {name for name in names if name.startswith(prefix) and (cursor is None or name > cursor)}
    page = sorted(names)[:limit]
    return tuple(_queue_info(store, name) for name in page), page[-1] if len(names) > limit else None


def _queue_info(store: Store, queue: str) -> QueueInfo:
    pending = [row for row in store.rows.values() if row.job.queue == queue and row.status == "pending"]
    lanes = {lane for name, lane in (*store.lane_unstarted, *store.lane_active) if name == queue and lane}
    return QueueInfo(
        queue=queue,
        counts={status: store.count(queue, status) for status in STATUSES},
        # The one made first: the wall clock may have gone back since, and no store has to sort by it.
        oldest_pending_at_ms=min(pending, key=lambda row: row.number).created_at_ms if pending else None,
        lanes=len(lanes),
        limits=store.limits.get((queue, None), Limits(queue=queue)),
    )


def put_limits(store: Store, limits: Sequence[Limits], only: Sequence[str]) -> None:
    for each in limits:
        place = (each.queue, each.lane)
        wanted = limits_over(store.limits.get(place), each, only)
        if are_defaults(wanted):
            store.limits.drop(place)
            store.buckets.drop(place)
        else:
            store.limits[place] = wanted
        store.touched_queues.add(each.queue)


def lane_limits(
    store: Store, queue: str, prefix: str, cursor: str | None, limit: int
) -> tuple[tuple[Limits, ...], str | None]:
    named = {lane: limits for (name, lane), limits in store.limits.items() if name == queue and lane is not None}
    lanes = sorted(lane for lane in named if lane.startswith(prefix) and (cursor is None or lane > cursor))
    page = lanes[:limit]
    return tuple(named[lane] for lane in page), page[-1] if len(lanes) > limit else None


def sessions(store: Store, cursor: str | None, limit: int) -> tuple[tuple[SessionInfo, ...], str | None]:
    mono_ms = store.mono_ms()
    leases = [lease for lease in store.sessions.values() if lease.closed_mono_ms is None]
    leases = sorted(
        (lease for lease in leases if cursor is None or lease.session.id > cursor), key=lambda lease: lease.session.id
    )
    infos = tuple(
        SessionInfo(
            lease.session,
            len(store.holding.get(lease.session.id, ())),
            lease.opened_at_ms,
            lease.until_mono_ms - mono_ms,
        )
        for lease in leases[:limit]
    )
    return infos, infos[-1].session.id if len(leases) > limit else None


# ── amend ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def amend(store: Store, where: Filter, change: Change, cursor: str | None, limit: int, now_ms: int) -> Amended:
    rows, next_cursor = _to_amend(store, where, cursor, limit)
    changed: list[str] = []
    skipped: list[tuple[str, Status | None]] = []
    for row in rows:
        if matches(row, where) and _amend_one(store, row, change, now_ms):
            changed.append(row.job.id)
        else:
            skipped.append((row.job.id, row.status))
    skipped += [
        (job_id, None) for job_id in dict.fromkeys(where.ids) if job_id not in store.rows and job_id not in changed
    ]
    lifecycle.follow_through(store, now_ms)
    return Amended(tuple(changed), tuple(skipped), next_cursor)


def _to_amend(store: Store, where: Filter, cursor: str | None, limit: int) -> tuple[list[Row], str | None]:
    """By ids: all of them in one call. Else what matches, in order of creation, page by page."""
    if where.ids:
        return [store.rows[job_id] for job_id in dict.fromkeys(where.ids) if job_id in store.rows], None
    after = int(cursor) if cursor is not None else 0
    rows = [row for row in store.rows.values() if row.number > after and matches(row, where)]
    rows.sort(key=lambda row: row.number)
    page = rows[:limit]
    return page, str(page[-1].number) if len(rows) > limit else None


def _amend_one(store: Store, row: Row, change: Change, now_ms: int) -> bool:
    """True if it was changed. A held job only listens to unhold."""
    if change.kind == "unhold":
        return _unhold(store, row, now_ms)
    if row.held:
        return False
    match change.kind:
        case "cancel" if row.status in UNSTARTED:
            lifecycle.end(store, row, "cancelled", now_ms, reason=change.reason)
        case "cancel" if row.status == "active" and not row.cancel_requested:
            store.change(row, cancel_requested=True, reason=change.reason)
        case "finish" if row.status in UNSTARTED:
            result = None if change.result == b"null" else change.result
            lifecycle.end(store, row, "completed", now_ms, reason=change.reason, result=result)
        case "replay" if row.status == "dead":
            return intake.replay(store, row, now_ms) is not None
        case "delete" if row.status in TERMINAL and not is_needed(store, row):
            store.drop_row(row)
        case "priority" if row.status in UNSTARTED:
            store.change(row, job=replace(row.job, priority=change.priority))
        case "run_at" if row.status in UNSTARTED:
            _reschedule(store, row, change.run_at_ms, now_ms)
        case "hold" if row.status != "active":
            store.change(row, held=True)
        case _:
            return False
    return True


def _reschedule(store: Store, row: Row, run_at_ms: int, now_ms: int) -> None:
    if row.status == "pending" and run_at_ms > now_ms:
        store.change(row, status="scheduled", run_at_ms=run_at_ms, ready_number=None)
    else:
        store.change(row, run_at_ms=run_at_ms)


def _unhold(store: Store, row: Row, now_ms: int) -> bool:
    """Startable again; needs and places that came free meanwhile are looked at now."""
    if not row.held:
        return False
    row = store.change(row, held=False)
    for need in row.job.needs:
        edge = store.edges.get((need.job_id, row.job.id))
        is_ended = store.rows[need.job_id].status in TERMINAL if edge is not None else False
        if edge is not None and not edge.met and is_ended and row.status == "waiting":
            row = lifecycle.meet_need(store, row, need.job_id, now_ms)
    if row.job.gate is not None and row.status == "waiting":
        store.followers[store.next_number("follower")] = ("gate", row.job.gate.key)
    return True


# ── schedules ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def list_schedules(store: Store, cursor: str | None, limit: int) -> tuple[tuple[Schedule, ...], str | None]:
    found = store.schedules
    ids = sorted(each for each in found if cursor is None or each > cursor)
    page = tuple(found[each] for each in ids[:limit])
    return page, page[-1].id if len(ids) > limit else None


def put_schedule(store: Store, schedule: Schedule, *, delete: bool) -> Schedule:
    found = store.schedules.get(schedule.id)
    version = found.version if found else 0
    if schedule.version != version:
        raise StateConflict(schedule.id, schedule.version, version)
    if delete:
        store.schedules.drop(schedule.id)
        return schedule
    saved = replace(schedule, version=version + 1)
    store.schedules[schedule.id] = saved
    return saved


def fire(
    store: Store, schedule: Schedule, nominal_ms: int, jobs: Sequence[NewJob], next_at_ms: int | None, now_ms: int
) -> tuple[bool, list[Enqueued]]:
    found = store.schedules.get(schedule.id)
    if found is None or found.version != schedule.version or (schedule.id, nominal_ms) in store.fires:
        return False, []
    store.fires[schedule.id, nominal_ms] = store.mono_ms()
    store.schedules[schedule.id] = replace(
        found, next_at_ms=next_at_ms, last_nominal_ms=max(found.last_nominal_ms, nominal_ms)
    )
    return True, intake.apply_effects(store, Effects(jobs=tuple(jobs)), now_ms)[1]


# ── locks ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def lock(store: Store, name: str, holder: str, lease_ms: int) -> Lock:
    mono_ms = store.mono_ms()
    found = store.locks.get(name)
    is_taken = found is not None and found.until_mono_ms > mono_ms
    if found is not None and is_taken and found.holder != holder:
        return Lock(None, found.holder, found.until_mono_ms - mono_ms)
    fence = found.fence if found is not None else 0
    if lease_ms <= 0:
        if found is not None and is_taken:
            store.locks[name] = Holder(holder, fence, mono_ms)
        return Lock(None, "", 0)
    store.locks[name] = Holder(holder, fence if is_taken else fence + 1, mono_ms + lease_ms)
    return Lock(store.locks[name].fence, holder, lease_ms)


def holders(store: Store, unique: Sequence[str], idempotency: Sequence[str]) -> Holders:
    kept = [store.kept.get(key) for key in idempotency]
    return Holders(
        tuple(store.unique.get(key) for key in unique),
        tuple((k.job_id, k.digest) if k and k.expires_mono_ms > store.mono_ms() else None for k in kept),
    )
