"""Verbs that are put together from several parts of a step."""

from __future__ import annotations

from collections.abc import Sequence

from psyqueue.backend import Amended, Change, Done, Effects, Enqueued, Filter, Limits, Mode, NewJob, Schedule
from psyqueue.backends._sqlite import intake, lifecycle, operating
from psyqueue.backends._sqlite.effects import apply_effects
from psyqueue.backends._sqlite.limits import change_limits
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import Step
from psyqueue.errors import StateConflict


def enqueue(step: Step, jobs: Sequence[NewJob], effects: Effects) -> tuple[Enqueued, ...]:
    """Writes come first: a failed precondition refuses the call before any job is looked at."""
    step.require_enqueue(jobs, effects)
    if not effects:
        enqueued = intake.enqueue(step, jobs)
        lifecycle.follow_through(step)
        return tuple(enqueued)
    apply_effects(step, Effects(writes=effects.writes))
    enqueued = intake.enqueue(step, jobs)
    _, followed = apply_effects(step, Effects(jobs=effects.jobs, records=effects.records))
    lifecycle.follow_through(step)
    return (*enqueued, *followed)


def promote(step: Step, queues: Sequence[str], limit: int) -> Done:
    if step.starts_nothing:
        return Done(more=lifecycle.follow_through(step, limit))
    expired, more_expired = lifecycle.expire(step, queues, limit)
    due, more_due = lifecycle.promote(step, queues, limit)
    is_left_over = lifecycle.follow_through(step, limit)
    return Done(
        (*expired, *due),
        more=more_expired or more_due or is_left_over,
        next_in_ms=lifecycle.next_due_in_ms(step, queues),
    )


def amend(step: Step, where: Filter, change: Change, cursor: str | None, limit: int, effects: Effects) -> Amended:
    step.require_change()
    amended = operating.amend(step, where, change, cursor, limit)
    if amended.changed:
        apply_effects(step, effects)
    return amended


def set_limits(step: Step, limits: Sequence[Limits], effects: Effects, only: Sequence[str]) -> None:
    step.require_change()
    change_limits(step, limits, only)
    apply_effects(step, effects)


def fire(step: Step, schedule: Schedule, nominal_ms: int, jobs: Sequence[NewJob], next_at_ms: int | None) -> bool:
    """Enqueue once per (schedule, nominal time)."""
    step.require_enqueue()
    if not operating.note_fire(step, schedule, nominal_ms, next_at_ms):
        return False
    apply_effects(step, Effects(jobs=tuple(jobs)))
    return True


def write_state(step: Step, effects: Effects) -> tuple[int, ...]:
    step.require_enqueue(effects.jobs) if effects.jobs else step.require_change()
    return tuple(apply_effects(step, effects)[0])


def set_mode(step: Step, mode: Mode, epoch: int, moved_to: str) -> None:
    if epoch != step.epoch + 1:
        raise StateConflict("epoch of the namespace", epoch - 1, step.epoch)
    step.run(SQL["meta.set_mode"], (mode, epoch, moved_to))
    step.is_everybody_touched = True


def advance_clock(step: Step, by_ms: int) -> None:
    step.run(SQL["meta.advance"], (by_ms,))
    # The monotone clock takes note at once, so that a step back later does not undo what this one showed.
    moved = Step(step.connection)
    moved.note_clock()
    step.take_clock(moved)
    step.is_everybody_touched = True
