"""All queues at a glance: what waits, what runs, what is wrong."""

from __future__ import annotations

from typing import Final

from psyqueue.dashboard.charts import chart
from psyqueue.dashboard.desk import Desk
from psyqueue.dashboard.visit import Page, Visit

QUEUES_MAX: Final = 100
_TOTALS: Final = ("pending", "active", "scheduled", "waiting", "dead")


async def show(desk: Desk, visit: Visit) -> Page:
    """The busiest queues first; `find` is a part of their names."""
    seen, lines = await desk.look()
    find = visit.asked("find")
    found = [line for line in lines if find in line.queue]
    return Page(
        "overview.html",
        {
            "seen": seen,
            "find": find,
            "lines": found[:QUEUES_MAX],
            "left_out": max(0, len(found) - QUEUES_MAX),
            "totals": {name: sum(getattr(line, name) for line in lines) for name in _TOTALS},
            "workers": len(seen.sessions),
            "charts": (
                chart("ended a second", [(point.mono_ms, point.ended_per_second) for point in desk.points]),
                chart("pending", [(point.mono_ms, point.pending) for point in desk.points]),
            ),
        },
    )
