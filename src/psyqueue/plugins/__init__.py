"""What a queue can be given with `use` beside its store."""

from __future__ import annotations

from psyqueue.plugins.scheduler import Schedules, ScheduleView, SyncSchedules, upcoming

__all__ = ["ScheduleView", "Schedules", "SyncSchedules", "upcoming"]
