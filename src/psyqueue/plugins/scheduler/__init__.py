"""Work that repeats: by cron expressions or in steps, each instant one job."""

from __future__ import annotations

from psyqueue.plugins.scheduler.definition import ScheduleView
from psyqueue.plugins.scheduler.plugin import Schedules, SyncSchedules, upcoming

__all__ = ["ScheduleView", "Schedules", "SyncSchedules", "upcoming"]
