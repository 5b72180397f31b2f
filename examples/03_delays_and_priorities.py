"""What runs when: priority (higher first), delay, run_at, and jobs that expire when they start too late."""

import asyncio
from datetime import UTC, datetime, timedelta
from tempfile import TemporaryDirectory

from psyqueue import JobDead, PsyQueue
from psyqueue.backends import sqlite

q = PsyQueue()


@q.handle("say", queue="voice")
async def say(text: str) -> None:
    print(text)


async def main(folder: str) -> None:
    q.use(sqlite(path=f"{folder}/jobs.db"))
    async with q:
        jobs = [
            await say.options(priority=-5).enqueue("low priority"),
            await say.enqueue("normal priority"),
            await say.options(priority=5).enqueue("high priority"),
        ]
        q.start_worker(concurrency=1)
        for job in jobs:
            await job.result(timeout="10s")

        jobs = [
            await say.options(delay="3s", priority=9).enqueue("due later: a priority counts among due jobs"),
            await say.options(run_at=datetime.now(UTC) + timedelta(seconds=1)).enqueue("due soon"),
        ]
        stale = await say.options(delay="20ms", expires="10ms").enqueue("never said")
        views = [await job.refresh() for job in jobs]
        print("due after their enqueue:", [view.run_at > view.created_at for view in views])
        for job in jobs:
            await job.result(timeout="10s")
        try:
            await stale.result(timeout="10s")
        except JobDead as exc:
            print("dead:", exc.reason)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | high priority
# | normal priority
# | low priority
# | due after their enqueue: [True, True]
# | due soon
# | due later: a priority counts among due jobs
# | dead: expired
