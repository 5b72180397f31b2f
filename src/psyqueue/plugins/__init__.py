"""What a queue can be given with `use` beside its store."""

from __future__ import annotations

from psyqueue.plugins.scheduler import Schedules, ScheduleView, upcoming

__all__ = ["ScheduleView", "Schedules", "upcoming"]
