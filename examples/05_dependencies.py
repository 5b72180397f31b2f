"""Jobs that wait for others: fan out, fan in, and a job that runs when another one failed."""

import asyncio
from tempfile import TemporaryDirectory

from psyqueue import Context, JobCancelled, PsyQueue
from psyqueue.backends import sqlite

q = PsyQueue()


@q.handle("count", queue="words")
async def count(text: str) -> int:
    return len(text.split())


@q.handle("total", queue="words")
async def total(ctx: Context) -> int:
    parts = [await q.handle_of(parent).result() for parent in ctx.job.needs]
    print("counted:", parts)
    return sum(parts)


@q.handle("break", queue="words", max_retries=0)
async def break_down() -> None:
    raise RuntimeError("no paper")


@q.handle("clean", queue="words")
async def clean_up(ctx: Context) -> str:
    parent = await q.handle_of(ctx.job.needs[0]).refresh()
    return f"cleaned up after {parent.name}, which is {parent.status}"


async def main(folder: str) -> None:
    q.use(sqlite(path=f"{folder}/jobs.db"))
    async with q:
        parts = await q.enqueue_bulk([count.build(text) for text in ("one", "one two", "one two three")])
        joined = await total.options(depends_on=parts).enqueue()

        broken = await break_down.enqueue()
        cleaned = await clean_up.options(depends_on={broken.id: "dead"}).enqueue()
        either = await clean_up.options(depends_on=[(broken, ("completed", "dead"))]).enqueue()
        never = await clean_up.options(depends_on=broken).enqueue()
        print("waiting:", (await joined.refresh()).status, [r.code for r in (await q.explain(never.id)).reasons])

        q.start_worker()
        print("total:", await joined.result(timeout="10s"))
        print(await cleaned.result(timeout="10s"))
        print(await either.result(timeout="10s"))
        try:
            await never.result(timeout="10s")
        except JobCancelled as exc:
            print("cancelled without a run:", exc.reason)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | waiting: waiting ['needs:…', 'no_worker']
# | counted: [1, 2, 3]
# | total: 6
# | cleaned up after break, which is dead
# | cleaned up after break, which is dead
# | cancelled without a run: dependency
