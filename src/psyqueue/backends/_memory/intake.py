"""Enqueue, and the effects that ride on other steps."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from psyqueue.backend import Effects, Enqueued, Item, NewJob, StateWrite, Stored
from psyqueue.backend.state_rules import TOKEN_UNITS, refilled, wait_ms
from psyqueue.backends._memory import lifecycle
from psyqueue.backends._memory.state import Bucket, Cell, Kept, Line, Row, Store
from psyqueue.errors import IdConflict, KeyConflict, QueueFull, RateLimitError, StateConflict, UnknownDependency
from psyqueue.job import TERMINAL


def enqueue(store: Store, jobs: Sequence[NewJob], now_ms: int) -> list[Enqueued]:
    """All of `jobs` by the rules of the seam, limits included."""
    return [_enqueue_one(store, job, now_ms, is_follow_up=False) for job in jobs]


def apply_effects(store: Store, effects: Effects, now_ms: int) -> tuple[list[int], list[Enqueued]]:
    """(numbers of the writes, replies of the follow-up jobs). Raises Refused if a precondition fails."""
    numbers = [_write(store, write) for write in effects.writes]
    enqueued = [_enqueue_one(store, job, now_ms, is_follow_up=True) for job in effects.jobs]
    for record in effects.records:
        store.streams[record.stream] = seq = store.streams.get(record.stream, 0) + 1
        expires = None if record.ttl_ms is None else store.mono_ms() + record.ttl_ms
        store.records[record.stream, seq] = Line(Stored(seq, now_ms, record.body), expires)
    return numbers, enqueued


def _enqueue_one(store: Store, job: NewJob, now_ms: int, *, is_follow_up: bool) -> Enqueued:
    found = _same_id(store, job, is_follow_up=is_follow_up) or _same_key(store, job, is_follow_up=is_follow_up)
    if found is not None:
        return found
    if job.unique is not None and (holder_id := store.unique.get(job.unique.key)) is not None:
        return _unique_taken(store, job, store.rows[holder_id], now_ms, is_follow_up=is_follow_up)
    for need in job.needs:
        if need.job_id not in store.rows:
            raise UnknownDependency(job.id, need.job_id)
    if not is_follow_up:
        _check_room(store, job)
    row = _insert(store, job, now_ms)
    return Enqueued(job.id, True, row.status)


def _same_id(store: Store, job: NewJob, *, is_follow_up: bool) -> Enqueued | None:
    row = store.rows.get(job.id)
    if row is None:
        return None
    if row.job.digest != job.digest and not is_follow_up:
        raise IdConflict(job.id)
    return Enqueued(job.id, False, row.status)


def _same_key(store: Store, job: NewJob, *, is_follow_up: bool) -> Enqueued | None:
    if job.idempotency is None:
        return None
    kept = store.kept.get(job.idempotency.key)
    if kept is None or kept.expires_mono_ms <= store.mono_ms():
        return None
    if kept.digest != job.digest and not is_follow_up:
        raise KeyConflict(job.idempotency.key, kept.job_id, "idempotency")
    row = store.rows.get(kept.job_id)
    return Enqueued(kept.job_id, False, row.status if row else None)


def _unique_taken(store: Store, job: NewJob, holder: Row, now_ms: int, *, is_follow_up: bool) -> Enqueued:
    assert job.unique is not None
    on_conflict = job.unique.on_conflict
    if on_conflict == "reject" and not is_follow_up:
        raise KeyConflict(job.unique.key, holder.job.id, "unique")
    if on_conflict == "replace" and holder.status in ("waiting", "scheduled", "pending") and not holder.held:
        holder = _replace(store, holder, job, now_ms)
    return Enqueued(holder.job.id, False, holder.status)


def _replace(store: Store, holder: Row, job: NewJob, now_ms: int) -> Row:
    """A holder that has not started gets the content of the newcomer; its id, name, queue and place in line stay."""
    content = replace(holder.job, payload=job.payload, cold=job.cold, priority=job.priority, digest=job.digest)
    run_at_ms = _run_at_ms(job, now_ms)
    holder = store.change(holder, job=content, run_at_ms=run_at_ms, expires_at_ms=_expires_at_ms(job, now_ms))
    if holder.status == "waiting":
        return holder
    if run_at_ms > now_ms:
        return store.change(holder, status="scheduled", ready_number=None)
    return holder if holder.status == "pending" else lifecycle.admit(store, holder, now_ms)


def _check_room(store: Store, job: NewJob) -> None:
    queue_limits = store.limits.get((job.queue, None))
    if queue_limits is not None and queue_limits.pending_max is not None:
        if store.count(job.queue, "waiting", "scheduled", "pending") >= queue_limits.pending_max:
            raise QueueFull(job.queue, None, queue_limits.pending_max)
    lane_limits = store.limits.get((job.queue, job.lane))
    if lane_limits is not None and lane_limits.pending_max is not None:
        if store.lane_unstarted.get((job.queue, job.lane), 0) >= lane_limits.pending_max:
            raise QueueFull(job.queue, job.lane, lane_limits.pending_max)


def _insert(store: Store, job: NewJob, now_ms: int) -> Row:
    if job.idempotency is not None:
        until_ms = store.mono_ms() + job.idempotency.window_ms
        store.kept[job.idempotency.key] = Kept(job.id, job.digest, until_ms)
    if job.unique is not None:
        store.unique[job.unique.key] = job.id
    row = Row(
        job=job,
        number=store.next_number("made"),
        status="waiting",
        created_at_ms=now_ms,
        run_at_ms=_run_at_ms(job, now_ms),
        expires_at_ms=_expires_at_ms(job, now_ms),
    )
    store.add_row(row)
    return _start_waiting(store, row, now_ms)


def _start_waiting(store: Store, row: Row, now_ms: int) -> Row:
    """Count its needs against what its parents are by now; without unmet ones it goes straight to its gate."""
    job, unmet = row.job, 0
    is_hopeless = False
    for need in job.needs:
        parent = store.rows[need.job_id]
        is_met = parent.status in need.on
        is_hopeless |= parent.status in TERMINAL and not is_met
        unmet += not is_met
        store.add_edge(need.job_id, job.id, need, met=is_met)
    row = store.change(row, needs_left=unmet)
    if is_hopeless:
        return lifecycle.end(store, row, "cancelled", now_ms, reason="dependency")
    return lifecycle.enter_gate(store, row, now_ms) if unmet == 0 else row


def _run_at_ms(job: NewJob, now_ms: int) -> int:
    return max(now_ms + job.delay_ms, job.run_at_ms if job.run_at_ms is not None else now_ms)


def _expires_at_ms(job: NewJob, now_ms: int) -> int | None:
    return None if job.expires_in_ms is None else now_ms + job.expires_in_ms


def replay(store: Store, row: Row, now_ms: int) -> Row | None:
    """Dead → pending or waiting, as a new generation. None: its unique key is taken."""
    job = row.job
    if job.unique is not None:
        holder = store.unique.get(job.unique.key, job.id)
        if holder != job.id:
            return None
        store.unique[job.unique.key] = job.id
    row = store.change(
        row,
        status="waiting",
        generation=row.generation + 1,
        attempt=0,
        lost=0,
        needs_left=0,
        reason="",
        completed_at_ms=None,
        started_at_ms=None,
        ready_number=None,
        run_at_ms=now_ms,
        expires_at_ms=None,
    )
    return lifecycle.enter_gate(store, row, now_ms)


# ── state ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def live_cell(store: Store, key: str) -> Cell | None:
    cell = store.cells.get(key)
    if cell is None or (cell.expires_mono_ms is not None and cell.expires_mono_ms <= store.mono_ms()):
        return None
    return cell


def _write(store: Store, write: StateWrite) -> int:
    cell = live_cell(store, write.key)
    version = cell.item.version if cell else 0
    if write.expected is not None and write.kind in ("put", "delete") and write.expected != version:
        raise StateConflict(write.key, write.expected, version)
    if write.kind == "delete":
        store.cells.drop(write.key)
        return 0
    value, number, bucket = write.value, version + 1, None
    if write.kind == "add":
        number = _number_of(cell, write.key) + write.number
        value = str(number).encode()
    elif write.kind == "take":
        bucket, number = _take(store, write, cell)
        value = str(number).encode()
    expires = None if write.ttl_ms is None else store.mono_ms() + write.ttl_ms
    store.cells[write.key] = Cell(Item(write.key, value, version + 1), expires, bucket)
    return number


def _number_of(cell: Cell | None, key: str) -> int:
    if cell is None:
        return 0
    try:
        return int(cell.item.value)
    except ValueError:
        # A key of text is no counter: the version stands for what was found.
        raise StateConflict(key, None, cell.item.version) from None


def _take(store: Store, write: StateWrite, cell: Cell | None) -> tuple[Bucket, int]:
    mono_ms = store.mono_ms()
    full = write.capacity * TOKEN_UNITS
    before = cell.bucket if cell is not None and cell.bucket is not None else Bucket(full, mono_ms)
    level = refilled(before.level, mono_ms - before.at_mono_ms, write.refill_per_minute, full)
    missing = write.number * TOKEN_UNITS - level
    if missing > 0:
        raise RateLimitError(write.key, wait_ms(missing, write.refill_per_minute))
    level -= write.number * TOKEN_UNITS
    return Bucket(level, mono_ms), level // TOKEN_UNITS
