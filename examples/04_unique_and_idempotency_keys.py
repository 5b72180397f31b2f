"""Enqueue twice, run once: a unique key holds while the job lives, an idempotency key for a window, an id for good."""

import asyncio
from tempfile import TemporaryDirectory

from psyqueue import KeyConflict, PsyQueue
from psyqueue.backends import sqlite

q = PsyQueue()


@q.handle("report.build", queue="reports", unique="customer")
async def build_report(customer: str, *, pages: int = 1) -> str:
    return f"report for {customer}, {pages} pages"


@q.handle("invoice.charge", queue="money")
async def charge(cents: int) -> int:
    return cents


async def main(folder: str) -> None:
    q.use(sqlite(path=f"{folder}/jobs.db"))
    async with q:
        # unique="customer": one live job per customer, whatever the other fields are.
        first = await build_report.enqueue("acme")
        second = await build_report.enqueue("acme", pages=2)
        print("unique: created", first.created, second.created, "- same job:", first == second)
        replaced = await build_report.options(on_conflict="replace").enqueue("acme", pages=3)
        print("replaced: same job:", replaced == first, (await first.refresh()).payload)
        try:
            await build_report.options(on_conflict="reject").enqueue("acme")
        except KeyConflict as exc:
            print("rejected:", exc.code)

        once = charge.options(idempotency_key="order-17", idempotency_window="1h")
        paid = await once.enqueue(500)
        own_id = await charge.options(id="charge-18").enqueue(700)

        q.start_worker()
        print(await replaced.result(timeout="10s"))
        print("charged:", await paid.result(timeout="10s"), await own_id.result(timeout="10s"))

        # The unique key is free again; the idempotency key and the id are not.
        print("unique, later: created", (await build_report.enqueue("acme")).created)
        again = await once.enqueue(500)
        print("idempotent, later: created", again.created, "- same job:", again == paid)
        print("own id, later: created", (await charge.options(id="charge-18").enqueue(700)).created)
        try:
            await once.enqueue(900)
        except KeyConflict as exc:
            print("other content:", exc.code)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | unique: created True False - same job: True
# | replaced: same job: True {'customer': 'acme', 'pages': 3}
# | rejected: KEY_CONFLICT
# | report for acme, 3 pages
# | charged: 500 700
# | unique, later: created True
# | idempotent, later: created False - same job: True
# | own id, later: created False
# | other content: KEY_CONFLICT
