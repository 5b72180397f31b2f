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
    sight = await desk.look()
    find = visit.asked("find")
    found = [line for line in sight.lines if find.casefold() in line.queue.casefold()]
    return Page(
        "overview.html",
        {
            "seen": sight.seen,
            "find": find,
            "lines": found[:QUEUES_MAX],
            "left_out": max(0, len(found) - QUEUES_MAX),
            "totals": {name: sum(getattr(line, name) for line in sight.lines) for name in _TOTALS},
            "workers": len(sight.seen.sessions),
            "charts": (
                chart("completed in a minute", [(each.at_ms, each.completed) for each in sight.minutes]),
                chart("failed in a minute", [(each.at_ms, each.retried + each.dead) for each in sight.minutes]),
                chart("pending", tuple(desk.pending)),
            ),
        },
    )
