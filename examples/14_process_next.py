"""No worker: run jobs one at a time, when it suits you. For cron, serverless functions, scripts and tests."""

import asyncio
from tempfile import TemporaryDirectory

from psyqueue import Context, PsyQueue, Retry
from psyqueue.backends import sqlite

q = PsyQueue()


@q.handle("import", queue="files")
async def import_file(ctx: Context, path: str) -> None:
    print(f"importing {path}, attempt {ctx.attempt}")
    if path == "b.csv" and ctx.attempt == 1:
        raise Retry(after=0, reason="locked")


async def main(folder: str) -> None:
    q.use(sqlite(path=f"{folder}/jobs.db"))
    async with q:
        await q.enqueue_bulk([import_file.build(path) for path in ("a.csv", "b.csv")])
        await import_file.options(delay="1h").enqueue("later.csv")

        # True: one job was run and settled. False: nothing can start now; it never waits.
        runs = 0
        while await q.process_next("files"):
            runs += 1
        print("runs:", runs)
        print("left:", [view.payload["path"] for view in await q.jobs(queue="files", status="scheduled")])


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | importing a.csv, attempt 1
# | importing b.csv, attempt 1
# | importing b.csv, attempt 2
# | runs: 3
# | left: ['later.csv']
