"""A schedule as the store keeps it, and as it is shown."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

from psyqueue.backend import Schedule
from psyqueue.clock import to_datetime
from psyqueue.kernel.extension import Plan
from psyqueue.plugins.scheduler.timing import Timing

Missed: TypeAlias = Literal["latest", "skip", "all"]

LATE_MS = 60_000
"""Later than this is missed: a process that is only slow is not."""
CATCH_UP_MAX = 1_000
"""Jobs that one schedule makes for a time in which nobody looked; the latest ones."""
FORMAT = 1


class Definition(Struct, frozen=True, kw_only=True):
    """What is due when. `missed` says what becomes of instants at which no process was there.

    `is_declared`: by code that the store is told of at each start, and not by a call.
    """

    plan: Plan
    timing: Timing
    missed: Missed = "latest"
    is_declared: bool = False
    format: int = FORMAT

    def due(self, next_at_ms: int, now_ms: int) -> list[int]:
        """The instants to make jobs for, in order, where the next one was to be `next_at_ms`."""
        count = CATCH_UP_MAX if self.missed == "all" else 1
        found = self.timing.last_in(next_at_ms - 1, now_ms, count)
        if self.missed == "skip":
            return [at_ms for at_ms in found if now_ms - at_ms <= LATE_MS]
        return found


class ScheduleView(Struct, frozen=True, kw_only=True):
    """One schedule, as it is now. Either `cron` (in the time zone `tz`) or `every` is set.

    `name`, `queue`, `payload` and `options` are those of its jobs. `next_at` is None where nothing comes any more; a
    paused schedule makes nothing until it is resumed. `last_at` is the latest instant that a job was made for.
    """

    id: str
    name: str
    queue: str
    payload: Any
    options: dict[str, Any]
    cron: str | None
    every: timedelta | None
    tz: str
    missed: Missed
    is_declared: bool
    is_paused: bool
    next_at: datetime | None
    last_at: datetime | None


def encoded(definition: Definition) -> bytes:
    """The same bytes for the same definition."""
    return msgspec.json.encode(definition, order="deterministic")


def decoded(schedule: Schedule) -> Definition | None:
    """None for what a later release wrote, or somebody else."""
    try:
        definition = msgspec.json.decode(schedule.spec, type=Definition)
    except msgspec.MsgspecError:
        return None
    return definition if definition.format == FORMAT else None


def view_of(schedule: Schedule, definition: Definition) -> ScheduleView:
    """Its public form."""
    plan, timing = definition.plan, definition.timing
    return ScheduleView(
        id=schedule.id,
        name=plan.name,
        queue=plan.queue,
        payload=plan.payload,
        options=plan.options,
        cron=timing.cron,
        every=None if timing.every_ms is None else timedelta(milliseconds=timing.every_ms),
        tz=timing.tz,
        missed=definition.missed,
        is_declared=definition.is_declared,
        is_paused=schedule.paused,
        next_at=None if schedule.next_at_ms is None else to_datetime(schedule.next_at_ms),
        last_at=to_datetime(schedule.last_nominal_ms) if schedule.last_nominal_ms else None,
    )
