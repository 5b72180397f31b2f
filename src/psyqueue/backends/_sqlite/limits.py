"""How much a queue or a lane may start and hold, and when time alone will let it go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from psyqueue.backend import Limits
from psyqueue.backend.reading import are_defaults, is_paused, limits_over
from psyqueue.backend.state_rules import TOKEN_UNITS, refilled, wait_ms
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import ACTIVE, PENDING, SCHEDULED, WAITING, Step
from psyqueue.errors import QueueFull

NO_LIMIT = 1 << 30
_ONE = SQL["limits.one"]
_retention = msgspec.json.Decoder(tuple[int, int])


class Limited:
    """The limits of one queue or lane with the bucket of its start rate, as of the step's instant."""

    __slots__ = ("is_charged", "level", "limits")

    def __init__(self, step: Step, row: tuple[Any, ...]) -> None:
        self.limits = limits = limits_of(row)
        self.level = 0
        self.is_charged = False
        if limits.starts_per_minute is not None:
            full = limits.starts_burst * TOKEN_UNITS
            level, at_mono_ms = (full, step.mono_ms) if row[11] is None else row[11:13]
            self.level = refilled(level, step.mono_ms - at_mono_ms, limits.starts_per_minute, full)

    def is_paused(self, now_ms: int) -> bool:
        return is_paused(self.limits, now_ms)

    def room(self, step: Step) -> int:
        """How many starts it allows now."""
        limits = self.limits
        if is_paused(limits, step.now_ms):
            return 0
        room = NO_LIMIT
        if limits.active_max is not None:
            room = limits.active_max - self.active(step)
        if limits.starts_per_minute is not None:
            room = min(room, self.level // TOKEN_UNITS)
        return room

    def active(self, step: Step) -> int:
        limits = self.limits
        if limits.lane is None:
            return step.tallies(limits.queue).get(ACTIVE, 0)
        return step.lane_counts(limits.queue, limits.lane)[2]

    def charge(self) -> None:
        """One start."""
        if self.limits.starts_per_minute is not None:
            self.level -= TOKEN_UNITS
            self.is_charged = True

    def save(self, step: Step) -> None:
        if self.is_charged:
            key = (self.limits.queue, self.limits.lane is not None, self.limits.lane or "")
            step.run(SQL["limits.charge"], (self.level, step.mono_ms, *key))


def limits_of(row: tuple[Any, ...]) -> Limits:
    return Limits(
        queue=row[0],
        lane=row[2] if row[1] else None,
        paused_until_ms=row[3],
        weight=row[4],
        active_max=row[5],
        starts_per_minute=row[6],
        starts_burst=row[7],
        pending_max=row[8],
        retain_ended=None if row[9] is None else _retention.decode(row[9]),
        retain_dead=None if row[10] is None else _retention.decode(row[10]),
    )


def limited(step: Step, queue: str, lane: str | None) -> Limited | None:
    """None: there are no limits for it."""
    if not step.has_limits:
        return None
    row = step.run(_ONE, (queue, lane is not None, lane or "")).fetchone()
    return None if row is None else Limited(step, row)


def change_limits(step: Step, limits: Sequence[Limits], only: Sequence[str]) -> None:
    for wanted in limits:
        found = limited(step, wanted.queue, wanted.lane) if only else None
        each = limits_over(None if found is None else found.limits, wanted, only)
        if are_defaults(each):
            step.run(SQL["limits.forget"], (each.queue, each.lane is not None, each.lane or ""))
        else:
            put_limits(step, each)
        step.touched.add(each.queue)


def put_limits(step: Step, limits: Limits) -> None:
    step.has_limits = True
    retained = (
        None if kept is None else msgspec.json.encode(kept).decode()
        for kept in (limits.retain_ended, limits.retain_dead)
    )
    step.run(
        SQL["limits.put"],
        (
            limits.queue,
            limits.lane is not None,
            limits.lane or "",
            limits.paused_until_ms,
            limits.weight,
            limits.active_max,
            limits.starts_per_minute,
            limits.starts_burst,
            limits.pending_max,
            *retained,
        ),
    )


def check_room(step: Step, queue: str, lane: str) -> None:
    """Raises QueueFull if the queue or the lane cannot take one more."""
    for scope in (None, lane):
        pending_max = exceeded(step, queue, scope, 1)
        if pending_max is not None:
            raise QueueFull(queue, scope, pending_max)


def exceeded(step: Step, queue: str, lane: str | None, newcomers: int) -> int | None:
    """The limit of unstarted jobs that `newcomers` would break; None = there is room."""
    found = limited(step, queue, lane)
    if found is None or found.limits.pending_max is None:
        return None
    if lane is None:
        jobs = step.tallies(queue)
        unstarted = sum(jobs.get(status, 0) for status in (WAITING, SCHEDULED, PENDING))
    else:
        unstarted = step.lane_counts(queue, lane)[1]
    return found.limits.pending_max if unstarted + newcomers > found.limits.pending_max else None


def next_start_in_ms(step: Step, queues: Sequence[str]) -> int | None:
    """When the first pause or rate that keeps pending jobs of `queues` back lets go; None: none does, by time alone."""
    waits: list[int] = []
    for queue in queues if step.has_limits else ():
        if step.run(SQL["limits.any"], (queue,)).fetchone() is None or not step.tallies(queue).get(PENDING, 0):
            continue
        for row in step.run(SQL["limits.waiting"], (queue, step.now_ms)).fetchall():
            found = Limited(step, row)
            limits = found.limits
            if limits.lane == "" and not step.lane_counts(queue, "")[0]:
                continue
            if limits.paused_until_ms is not None and limits.paused_until_ms > step.now_ms:
                waits.append(limits.paused_until_ms - step.now_ms)
            missing = TOKEN_UNITS - found.level
            if limits.starts_per_minute is not None and missing > 0:
                waits.append(wait_ms(missing, limits.starts_per_minute))
    return min(waits, default=None)
