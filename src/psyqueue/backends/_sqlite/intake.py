"""Enqueue. A plain job, or a batch of them, is two statements; a job with keys, a gate or needs is put in by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psyqueue.backend import Enqueued, NewJob
from psyqueue.backends._sqlite import lifecycle
from psyqueue.backends._sqlite.limits import check_room, exceeded
from psyqueue.backends._sqlite.rows import (
    GATED,
    KEYED,
    NEEDED,
    NEEDY,
    Row,
    change,
    encode_extras,
    find,
    is_in,
    load,
    mask_of,
    status_of,
)
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import CANCELLED, COMPLETED, PENDING, SCHEDULED, WAITING, Step
from psyqueue.errors import IdConflict, KeyConflict, UnknownDependency
from psyqueue.job import STATUSES, Status

_INSERT_JOB, _INSERT_BODY = SQL["rows.insert_job"], SQL["rows.insert_body"]
_INSERT_PLAIN_BODY, _INSERT_LONE = SQL["enqueue.insert_body"], SQL["enqueue.insert_lone"]
_INSERT_RUN = SQL["enqueue.insert_run"]


def enqueue(step: Step, jobs: Sequence[NewJob], *, is_follow_up: bool = False) -> list[Enqueued]:
    """All of `jobs`, by the rules of the seam. Raises Refused; the caller then takes the whole step back."""
    if (enqueued := _enqueue_plain(step, jobs, is_follow_up=is_follow_up)) is not None:
        return enqueued
    return [_enqueue_one(step, job, is_follow_up=is_follow_up) for job in jobs]


# ── the batch ─────────────────────────────────────────────────────────────────────────────────────────────────────────
class _Taken(Exception):
    """An id of the batch exists, or stands in it twice."""


def _enqueue_plain(step: Step, jobs: Sequence[NewJob], *, is_follow_up: bool) -> list[Enqueued] | None:
    """New ids, no keys, nothing to wait for, room for all. None: something else goes the careful way, all of it."""
    lanes: dict[tuple[str, str], int] = {}
    for job in jobs:
        if job.unique is not None or job.idempotency is not None or job.gate is not None or job.needs:
            return None
        key = (job.queue, job.lane)
        lanes[key] = lanes.get(key, 0) + 1
    if not is_follow_up and step.has_limits and not _has_room(step, lanes):
        return None
    try:
        if len(jobs) == 1:
            # A single body that is taken leaves nothing behind that would have to be taken back.
            return [_insert_lone(step, jobs[0])]
        with step.savepoint():
            return _insert_plain(step, jobs)
    except _Taken:
        return None


def _has_room(step: Step, lanes: dict[tuple[str, str], int]) -> bool:
    queues: dict[str, int] = {}
    for (queue, lane), newcomers in lanes.items():
        queues[queue] = queues.get(queue, 0) + newcomers
        if exceeded(step, queue, lane, newcomers) is not None:
            return False
    return all(exceeded(step, queue, None, newcomers) is None for queue, newcomers in queues.items())


def _insert_lone(step: Step, job: NewJob) -> Enqueued:
    n, now_ms = step.made + 1, step.now_ms
    extras, body = encode_extras(job), _body(job, n, now_ms)
    inserted = step.run(_INSERT_PLAIN_BODY, body) if extras is None else step.run(_INSERT_BODY, (*body, extras))
    if inserted.rowcount == 0:
        raise _Taken
    step.made = n
    run_at_ms = run_at_ms_of(job, now_ms)
    status, ready_number = SCHEDULED, None
    if run_at_ms <= now_ms:
        status = PENDING
        step.ready = ready_number = step.ready + 1
    row = (n, job.queue, job.lane, status, job.priority, ready_number)
    if job.expires_in_ms is None:
        step.run(_INSERT_LONE, (*row, run_at_ms))
    else:
        step.run(_INSERT_JOB, (*row, 0, run_at_ms, now_ms + job.expires_in_ms, None))
    step.count(job.queue, job.lane, status, 1)
    step.touched.add(job.queue)
    return Enqueued(job.id, True, STATUSES[status])


def _insert_plain(step: Step, jobs: Sequence[NewJob]) -> list[Enqueued]:
    """The bodies one by one; of the rows as many at once as differ in their numbers alone, which is mostly all."""
    first, now_ms = step.made + 1, step.now_ms
    statement = _INSERT_PLAIN_BODY
    bodies = [_body(job, n, now_ms) for n, job in enumerate(jobs, first)]
    every_extras = [encode_extras(job) for job in jobs]
    if any(every_extras):
        statement = _INSERT_BODY
        bodies = [(*body, extras) for body, extras in zip(bodies, every_extras, strict=True)]
    if step.connection.executemany(statement, bodies).rowcount < len(jobs):
        raise _Taken
    step.made += len(jobs)
    replies: list[Enqueued] = []
    run: tuple[Any, ...] | None = None
    run_start = first
    for n, job in enumerate(jobs, first):
        run_at_ms = now_ms
        if job.delay_ms or job.run_at_ms is not None:
            run_at_ms = run_at_ms_of(job, now_ms)
        expires_at_ms = None if job.expires_in_ms is None else now_ms + job.expires_in_ms
        alike = (job.queue, job.lane, job.priority, run_at_ms, expires_at_ms)
        if alike != run:
            if run is not None:
                _insert_run(step, run, run_start, n - 1)
            run, run_start = alike, n
        replies.append(Enqueued(job.id, True, "pending" if run_at_ms <= now_ms else "scheduled"))
    if run is not None:
        _insert_run(step, run, run_start, step.made)
    return replies


def _insert_run(step: Step, alike: tuple[Any, ...], first: int, last: int) -> None:
    """Rows for the bodies from `first` to `last`, equal but for their numbers."""
    queue, lane, priority, run_at_ms, expires_at_ms = alike
    status, jobs, ready_from = SCHEDULED, last - first + 1, None
    if run_at_ms <= step.now_ms:
        status, ready_from = PENDING, step.ready + 1 - first
        step.ready += jobs
    step.run(_INSERT_RUN, (queue, lane, status, priority, ready_from, run_at_ms, expires_at_ms, first, last))
    step.count(queue, lane, status, jobs)
    step.touched.add(queue)


def _body(job: NewJob, n: int, now_ms: int) -> tuple[Any, ...]:
    """Without extras. As bytearray, because Python's sqlite3 takes it as it is and looks for an adapter for bytes."""
    return (
        n, job.id, job.name, job.max_retries, job.max_lost, now_ms,
        bytearray(job.digest), bytearray(job.cold), bytearray(job.payload),
    )  # fmt: skip


# ── one by one ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _enqueue_one(step: Step, job: NewJob, *, is_follow_up: bool) -> Enqueued:
    found = _same_id(step, job, is_follow_up=is_follow_up) or _same_key(step, job, is_follow_up=is_follow_up)
    if found is not None:
        return found
    if job.unique is not None:
        holder = step.run(SQL["links.unique_holder"], (job.unique.key,)).fetchone()
        if holder is not None:
            return _unique_taken(step, job, load(step, holder[0]), is_follow_up=is_follow_up)
    parents = [_parent(step, job, need.job_id) for need in job.needs]
    if not is_follow_up:
        check_room(step, job.queue, job.lane)
    return Enqueued(job.id, True, _insert(step, job, parents))


def _same_id(step: Step, job: NewJob, *, is_follow_up: bool) -> Enqueued | None:
    row = find(step, job.id)
    if row is None:
        return None
    if row.digest != job.digest and not is_follow_up:
        raise IdConflict(job.id)
    return Enqueued(job.id, False, row.status_name)


def _same_key(step: Step, job: NewJob, *, is_follow_up: bool) -> Enqueued | None:
    if job.idempotency is None:
        return None
    kept = step.run(SQL["links.kept"], (job.idempotency.key,)).fetchone()
    if kept is None or kept[2] <= step.mono_ms:
        return None
    job_id, digest, _ = kept
    if digest != job.digest and not is_follow_up:
        raise KeyConflict(job.idempotency.key, job_id, "idempotency")
    return Enqueued(job_id, False, status_of(step, job_id))


def _unique_taken(step: Step, job: NewJob, holder: Row, *, is_follow_up: bool) -> Enqueued:
    assert job.unique is not None
    on_conflict = job.unique.on_conflict
    if on_conflict == "reject" and not is_follow_up:
        raise KeyConflict(job.unique.key, holder.id, "unique")
    if on_conflict == "replace" and holder.status <= PENDING and not holder.held:
        _replace(step, holder, job)
    return Enqueued(holder.id, False, holder.status_name)


def _replace(step: Step, holder: Row, job: NewJob) -> None:
    """A holder that has not started gets the content of the newcomer; its id, name, queue and place in line stay."""
    step.run(SQL["rows.replace_body"], (job.digest, job.cold, job.payload, holder.n))
    holder.priority = job.priority
    holder.run_at_ms = run_at_ms_of(job, step.now_ms)
    holder.expires_at_ms = expires_at_ms_of(job, step.now_ms)
    if holder.status == WAITING or (holder.status == PENDING and holder.run_at_ms <= step.now_ms):
        change(step, holder)
    elif holder.run_at_ms > step.now_ms:
        change(step, holder, status=SCHEDULED, ready_number=None)
    else:
        lifecycle.admit(step, holder)


def _parent(step: Step, job: NewJob, parent_id: str) -> int:
    found = step.run(SQL["rows.number_of"], (parent_id,)).fetchone()
    if found is None:
        raise UnknownDependency(job.id, parent_id)
    return int(found[0])


def _insert(step: Step, job: NewJob, parents: Sequence[int]) -> Status:
    """Its status afterwards."""
    step.made += 1
    n, now_ms = step.made, step.now_ms
    if job.idempotency is not None:
        until_ms = step.mono_ms + job.idempotency.window_ms
        step.run(SQL["links.keep"], (job.idempotency.key, job.id, job.digest, until_ms))
    if job.unique is not None:
        step.run(SQL["links.take_unique"], (job.unique.key, n))
    links = KEYED * (job.unique is not None) | GATED * (job.gate is not None) | NEEDY * bool(job.needs)
    run_at_ms = run_at_ms_of(job, now_ms)
    status, number = WAITING, None
    if job.gate is None and not job.needs:
        if run_at_ms > now_ms:
            status = SCHEDULED
        else:
            step.ready += 1
            status, number = PENDING, step.ready
        step.touched.add(job.queue)
    gate = job.gate.key if job.gate is not None else None
    expires_at_ms = expires_at_ms_of(job, now_ms)
    step.run(_INSERT_JOB, (n, job.queue, job.lane, status, job.priority, number, links, run_at_ms, expires_at_ms, gate))
    inserted = step.run(_INSERT_BODY, (*_body(job, n, now_ms), encode_extras(job))).rowcount
    # The statement passes over what it cannot insert; the id was looked for before.
    assert inserted == 1, job.id
    step.count(job.queue, job.lane, status, 1)
    if status != WAITING:
        return STATUSES[status]
    return _start_waiting(step, load(step, n), parents).status_name


def _start_waiting(step: Step, row: Row, parents: Sequence[int]) -> Row:
    """Count its needs against what its parents are by now; without unmet ones it goes straight to its gate."""
    unmet, is_hopeless = 0, False
    for parent_n, need in zip(parents, row.extras.needs, strict=True):
        parent = load(step, parent_n)
        mask = mask_of(need.on)
        is_met = is_in(parent.status, mask)
        is_hopeless |= parent.status >= COMPLETED and not is_met
        unmet += not is_met
        step.run(SQL["links.add_edge"], (parent_n, row.n, mask, is_met))
        if not parent.links & NEEDED:
            step.run(SQL["links.mark_needed"], (NEEDED, parent_n))
    if row.extras.needs:
        change(step, row, needs_left=unmet)
    if is_hopeless:
        return lifecycle.end(step, row, CANCELLED, reason="dependency")
    return lifecycle.enter_gate(step, row) if unmet == 0 else row


def run_at_ms_of(job: NewJob, now_ms: int) -> int:
    return max(now_ms + job.delay_ms, job.run_at_ms if job.run_at_ms is not None else now_ms)


def expires_at_ms_of(job: NewJob, now_ms: int) -> int | None:
    return None if job.expires_in_ms is None else now_ms + job.expires_in_ms


def replay(step: Step, row: Row) -> bool:
    """Dead → pending or waiting, as a new generation. False: its unique key is taken."""
    unique = row.extras.unique
    if unique is not None:
        holder = step.run(SQL["links.unique_holder"], (unique.key,)).fetchone()
        if holder is not None and holder[0] != row.n:
            return False
        step.run(SQL["links.take_unique"], (unique.key, row.n))
    change(
        step,
        row,
        status=WAITING,
        generation=row.generation + 1,
        attempt=0,
        lost=0,
        reason="",
        completed_at_ms=None,
        started_at_ms=None,
        ready_number=None,
        needs_left=0,
        run_at_ms=step.now_ms,
        expires_at_ms=None,
    )
    lifecycle.enter_gate(step, row)
    return True
