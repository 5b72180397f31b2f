"""Enqueue in your own transaction: the job exists if and only if your rows do. Same SQLite file, your connection."""

import asyncio
import sqlite3
from contextlib import closing
from tempfile import TemporaryDirectory

from psyqueue import PsyQueue
from psyqueue.backends import sqlite

q = PsyQueue()


@q.handle("order.confirm", queue="orders")
async def confirm(number: int) -> str:
    return f"order {number} confirmed"


async def main(folder: str) -> None:
    path = f"{folder}/app.db"
    q.use(sqlite(path=path))
    async with q:
        q.start_worker()
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE orders (number INTEGER PRIMARY KEY)")

            with db:  # commits
                db.execute("INSERT INTO orders VALUES (1)")
                job = await confirm.options(conn=db).enqueue(1)
                print("seen before the commit:", await q.get(job.id))
            print(await job.result(timeout="10s"))

            try:
                with db:  # rolls back
                    db.execute("INSERT INTO orders VALUES (2)")
                    await confirm.options(id="order-2", conn=db).enqueue(2)
                    db.execute("INSERT INTO orders VALUES (1)")
            except sqlite3.IntegrityError:
                print("after the rollback:", await q.get("order-2"))

            print("orders:", db.execute("SELECT count(*) FROM orders").fetchone()[0])
            print("jobs:", len(await q.jobs(queue="orders")))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | seen before the commit: None
# | order 1 confirmed
# | after the rollback: None
# | orders: 1
# | jobs: 1
