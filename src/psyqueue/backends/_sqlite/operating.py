"""What operators change: jobs that match, schedules."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from psyqueue.backend import Amended, Change, Filter, Schedule
from psyqueue.backends._sqlite import intake, lifecycle, reading
from psyqueue.backends._sqlite.rows import Row, change, drop, find, is_in, load
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import (
    ACTIVE,
    CANCELLED,
    COMPLETED,
    DEAD,
    PENDING,
    SCHEDULED,
    WAITING,
    Step,
)
from psyqueue.errors import StateConflict
from psyqueue.job import Status

# A walk over several calls must not meet again what it changed: where jobs go to comes before where they come from.
_ENDED_FIRST = (COMPLETED, DEAD, CANCELLED, ACTIVE, SCHEDULED, WAITING, PENDING)
_DEAD_LAST = (WAITING, SCHEDULED, PENDING, ACTIVE, COMPLETED, CANCELLED, DEAD)


def amend(step: Step, where: Filter, how: Change, cursor: str | None, limit: int) -> Amended:
    rows, next_cursor = _to_amend(step, where, how, cursor, limit)
    changed: list[str] = []
    skipped: list[tuple[str, Status | None]] = []
    for n in rows:
        row = load(step, n)
        if reading.matches(step, where, row) and _amend_one(step, row, how):
            changed.append(row.id)
        else:
            skipped.append((row.id, row.status_name))
    if where.ids:
        known = {*changed, *(job_id for job_id, _ in skipped)}
        skipped += [(job_id, None) for job_id in dict.fromkeys(where.ids) if job_id not in known]
    lifecycle.follow_through(step)
    return Amended(tuple(changed), tuple(skipped), next_cursor)


def _to_amend(
    step: Step, where: Filter, how: Change, cursor: str | None, limit: int
) -> tuple[Sequence[int], str | None]:
    """By ids: all of them in one call. Else what matches, a page in order of creation."""
    if where.ids:
        found = (find(step, job_id) for job_id in dict.fromkeys(where.ids))
        return [row.n for row in found if row is not None], None
    order = _DEAD_LAST if how.kind == "replay" else _ENDED_FIRST
    numbers, next_cursor = reading.walk(step, where, cursor, limit, order)
    return sorted(numbers), next_cursor


def _amend_one(step: Step, row: Row, how: Change) -> bool:
    """True if it was changed. A held job only listens to unhold."""
    if how.kind == "unhold":
        return _unhold(step, row)
    if row.held:
        return False
    match how.kind:
        case "cancel" if row.status <= PENDING:
            lifecycle.end(step, row, CANCELLED, reason=how.reason)
        case "cancel" if row.status == ACTIVE and not row.cancel_requested:
            change(step, row, cancel_requested=1, reason=how.reason)
        case "finish" if row.status <= PENDING:
            lifecycle.end(step, row, COMPLETED, reason=how.reason, result=how.result)
        case "replay" if row.status == DEAD:
            return intake.replay(step, row)
        case "delete" if row.is_ended and not lifecycle.is_needed(step, row):
            drop(step, row)
        case "priority" if row.status <= PENDING:
            change(step, row, priority=how.priority)
        case "run_at" if row.status <= PENDING:
            _reschedule(step, row, how.run_at_ms)
        case "hold" if row.status != ACTIVE:
            change(step, row, held=1)
        case _:
            return False
    return True


def _reschedule(step: Step, row: Row, run_at_ms: int) -> None:
    if row.status == PENDING and run_at_ms > step.now_ms:
        change(step, row, status=SCHEDULED, run_at_ms=run_at_ms, ready_number=None)
    else:
        change(step, row, run_at_ms=run_at_ms)


def _unhold(step: Step, row: Row) -> bool:
    """Startable again; needs and places that came free meanwhile are looked at now."""
    if not row.held:
        return False
    change(step, row, held=0)
    if row.extras.needs:
        _meet_ended_needs(step, row)
    if row.gate is not None and row.status == WAITING:
        lifecycle.follow_later(step, gate=row.gate)
    return True


def _meet_ended_needs(step: Step, row: Row) -> None:
    unmet = {parent_id: (n, status) for parent_id, n, status in step.run(SQL["links.unmet_of"], (row.n,)).fetchall()}
    for need in row.extras.needs:
        parent_n, status = unmet.pop(need.job_id, (0, WAITING))
        if status >= COMPLETED and row.status == WAITING:
            mask, _ = step.run(SQL["links.edge"], (parent_n, row.n)).fetchone()
            lifecycle.meet_need(step, row, parent_n, is_met=is_in(status, mask))


# ── schedules ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def put_schedule(step: Step, schedule: Schedule, *, delete: bool) -> Schedule:
    """Raises StateConflict."""
    step.require_enqueue()
    row = step.run(SQL["operate.schedule"], (schedule.id,)).fetchone()
    version = row[2] if row is not None else 0
    if schedule.version != version:
        raise StateConflict(schedule.id, schedule.version, version)
    if delete:
        step.run(SQL["operate.drop_schedule"], (schedule.id,))
        return schedule
    saved = replace(schedule, version=version + 1)
    values = (saved.id, saved.spec, saved.version, saved.next_at_ms, saved.last_nominal_ms, saved.paused)
    step.run(SQL["operate.put_schedule"], values)
    return saved


def note_fire(step: Step, schedule: Schedule, nominal_ms: int, next_at_ms: int | None) -> bool:
    """False: fired before, another version, or gone."""
    row = step.run(SQL["operate.schedule"], (schedule.id,)).fetchone()
    if row is None or row[2] != schedule.version:
        return False
    if step.run(SQL["operate.fire"], (schedule.id, nominal_ms, step.mono_ms)).rowcount == 0:
        return False
    step.run(SQL["operate.set_next"], (next_at_ms, nominal_ms, schedule.id))
    return True
