"""Operate a queue: pause and resume it, bound how much of it runs at once, and ask why a job is not running."""

import asyncio
from tempfile import TemporaryDirectory

from psyqueue import PsyQueue, QueueFull
from psyqueue.backends import sqlite

q = PsyQueue()
running: set[int] = set()
most: list[int] = []


@q.handle("resize", queue="images")
async def resize(number: int) -> int:
    running.add(number)
    most.append(len(running))
    await asyncio.sleep(0.01)
    running.discard(number)
    return number


async def why(job_id: str) -> None:
    explanation = await q.explain(job_id)
    for reason in explanation.reasons:
        print(f"  {explanation.status}, {reason.code}: {reason.text}")


async def main(folder: str) -> None:
    q.use(sqlite(path=f"{folder}/jobs.db"))
    async with q:
        print("nobody is there:")
        first = await resize.enqueue(0)
        await why(first.id)

        q.start_worker("images", concurrency=8)
        await first.result(timeout="10s")
        print("done:")
        await why(first.id)

        await q.pause("images")
        await q.limits("images", active_max=2, pending_max=6)
        jobs = await q.enqueue_bulk([resize.build(number) for number in range(6)])
        print("paused:")
        await why(jobs[0].id)
        try:
            await resize.enqueue(6)
        except QueueFull as exc:
            print("full:", exc.code)

        await q.resume("images")
        print("resumed:", sum([await job.result(timeout="10s") for job in jobs]))
        print("at once, at most:", max(most))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | nobody is there:
# |   pending, no_worker: no running worker takes jobs of queue 'images': start one, q.start_worker('images')
# | done:
# |   completed, completed: it completed in attempt 1
# | paused:
# |   pending, paused:queue: queue 'images' is paused until somebody resumes it
# | full: QUEUE_FULL
# | resumed: 15
# | at once, at most: 2
