"""A process that makes the jobs of schedules until it is killed: `python -m crash.schedule_makers --serve`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from crash.nursery import serve
from psyqueue import PsyQueue
from psyqueue.plugins import Schedules
from support.store_at import store_at

QUEUE = "w"
TIMINGS: dict[str, dict[str, str]] = {"steps": {"every": "1s"}, "expression": {"cron": "* * * * * *"}}


async def make_jobs(place: str) -> None:
    schedules = Schedules()
    q = PsyQueue().use(store_at(place)).use(schedules)
    for name, timing in TIMINGS.items():
        schedules.add(f"all {name}", "work", queue=QUEUE, missed="all", **timing)
        schedules.add(f"latest {name}", "work", queue=QUEUE, **timing)  # type: ignore[arg-type]
    async with q:
        await asyncio.get_running_loop().create_future()


def main(arguments: Sequence[str]) -> int:
    (place,) = arguments
    asyncio.run(make_jobs(place))
    return 0


if __name__ == "__main__":
    sys.exit(serve(main))  # type: ignore[func-returns-value]
