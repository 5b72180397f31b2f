"""Wait for results, give up waiting, find a job again by its id, cancel one that waits and one that runs."""

import asyncio
from dataclasses import dataclass
from tempfile import TemporaryDirectory

from psyqueue import Context, JobCancelled, JobHandle, PsyQueue, ResultTimeout
from psyqueue.backends import sqlite

q = PsyQueue()
started = asyncio.Event()


@dataclass
class Sum:
    left: int
    right: int
    total: int


@q.handle("add", queue="work")
async def add(left: int, right: int) -> Sum:
    return Sum(left, right, left + right)


@q.handle("endless", queue="work")
async def endless(ctx: Context) -> None:
    started.set()
    try:
        await asyncio.Event().wait()
    finally:
        print("stopped, cancelled:", ctx.cancelled)


async def how_it_ended(job: JobHandle[None]) -> str:
    try:
        await job.result(timeout="10s")
    except JobCancelled:
        view = await job.refresh()
        return f"{view.status}: {view.reason}"
    return "completed"


async def main(folder: str) -> None:
    q.use(sqlite(path=f"{folder}/jobs.db"))
    async with q:
        job = await add.enqueue(2, 3)
        try:
            await job.result(timeout="50ms")  # there is no worker yet
        except ResultTimeout as exc:
            print("no result yet:", exc.status, "- is a TimeoutError:", isinstance(exc, TimeoutError))
        q.start_worker("work")
        print("result:", await job.result(timeout="10s"))  # of the annotated type
        print("by its id:", await q.handle_of(job.id).result(timeout="10s"))
        print("cancel what ended:", await job.cancel())

        later = await endless.options(delay="1h").enqueue()
        print("cancel what waits:", await later.cancel(), "-", await how_it_ended(later))
        running = await endless.enqueue()
        await started.wait()
        print("cancel what runs:", await running.cancel())
        print(await how_it_ended(running))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | no result yet: pending - is a TimeoutError: True
# | result: Sum(left=2, right=3, total=5)
# | by its id: Sum(left=2, right=3, total=5)
# | cancel what ended: False
# | cancel what waits: True - cancelled: cancelled by request
# | cancel what runs: True
# | stopped, cancelled: True
# | cancelled: cancelled by request
