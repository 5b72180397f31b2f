"""What a queue can be given with `use` beside its store."""

from __future__ import annotations

from psyqueue.plugins.metrics import Metrics
from psyqueue.plugins.scheduler import Schedules, ScheduleView, SyncSchedules, upcoming

__all__ = ["Metrics", "ScheduleView", "Schedules", "SyncSchedules", "upcoming"]
