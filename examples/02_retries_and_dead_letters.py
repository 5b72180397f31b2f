"""A failing job is retried with back-off, then becomes a dead letter: list, replay, replay all, purge."""

import asyncio
from tempfile import TemporaryDirectory

from psyqueue import Context, DeadLetter, JobDead, JobHandle, PsyQueue
from psyqueue.backends import sqlite

q = PsyQueue()
shop = {"open": False}


@q.handle("order.pay", queue="orders", max_retries=2, backoff="fixed", backoff_base="20ms")
async def pay(ctx: Context, order: int) -> str:
    if order < 0:
        raise DeadLetter("no such order")  # a verdict: no retry can mend it
    if not shop["open"]:
        print(f"order {order}, attempt {ctx.attempt}: the shop is closed")
        raise ConnectionError("the shop is closed")
    return f"order {order} is paid"


async def why_dead(job: JobHandle[str]) -> str:
    try:
        return await job.result(timeout="10s")
    except JobDead:
        view = await job.refresh()
        return f"{view.reason} after run {view.attempt}: {view.errors[-1]['message']}"


async def main(folder: str) -> None:
    q.use(sqlite(path=f"{folder}/jobs.db"))
    async with q:
        q.start_worker(concurrency=1)
        first = await pay.enqueue(1)
        print("dead:", await why_dead(first))
        others = [await pay.options(max_retries=0).enqueue(2), await pay.enqueue(-3)]
        for job in others:
            print("dead:", await why_dead(job))

        page = await q.dead_letter.list(queue="orders")
        print("dead letters:", sorted(view.payload["order"] for view in page))

        shop["open"] = True
        await q.dead_letter.replay(first.id)
        print("replayed one:", await first.result(timeout="10s"))

        print("replayed the rest:", await q.dead_letter.replay_all(queue="orders"))
        print(await others[0].result(timeout="10s"))
        print("dead again:", await why_dead(others[1]))

        print("purged:", await q.dead_letter.purge(queue="orders"))
        print("left:", len(await q.dead_letter.list()))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | order 1, attempt 1: the shop is closed
# | order 1, attempt 2: the shop is closed
# | order 1, attempt 3: the shop is closed
# | dead: exhausted after run 3: the shop is closed
# | order 2, attempt 1: the shop is closed
# | dead: exhausted after run 1: the shop is closed
# | dead: no such order after run 1: no such order
# | dead letters: [-3, 1, 2]
# | replayed one: order 1 is paid
# | replayed the rest: 2
# | order 2 is paid
# | dead again: no such order after run 1: no such order
# | purged: 1
# | left: 0
