"""Jobs and data in one PostgreSQL database: a job in your own transaction, and your rows in the job's own.

PSYQUEUE_URL names the server, such as postgresql://localhost/shop. Without it there is nothing to show.
"""

import asyncio
import os

import psycopg

from psyqueue import Context, PsyQueue

URL = os.environ.get("PSYQUEUE_URL", "")
# A schema of its own: what else lies in this database is left alone.
SCHEMA = f"psyqueue_example_{os.getpid()}"


async def main() -> None:
    q = PsyQueue.from_url(URL, schema=SCHEMA)

    @q.handle("order.bill", queue="orders", backoff_base="10ms")
    async def bill(ctx: Context, number: int) -> str:
        async with ctx.transaction() as connection:  # of asyncpg, in the database of the jobs
            await connection.execute(f"INSERT INTO {SCHEMA}.bill VALUES ($1)", number)
        if ctx.attempt == 1:
            raise ConnectionError("the printer is away")  # the row above goes, and the job comes again
        return f"order {number} billed in attempt {ctx.attempt}"

    async with q, await psycopg.AsyncConnection.connect(URL) as db:
        await db.execute(f"CREATE TABLE {SCHEMA}.placed (number int PRIMARY KEY)")
        await db.execute(f"CREATE TABLE {SCHEMA}.bill (number int)")
        await db.commit()

        async with db.transaction():
            await db.execute(f"INSERT INTO {SCHEMA}.placed VALUES (1)")
            job = await bill.options(conn=db).enqueue(1)
            print("seen before the commit:", await q.get(job.id))
        print("after the commit it is", (await job.refresh()).status)

        try:
            async with db.transaction():
                await bill.options(id="order-2", conn=db).enqueue(2)
                await db.execute(f"INSERT INTO {SCHEMA}.placed VALUES (1)")
        except psycopg.errors.UniqueViolation:
            print("after the rollback:", await q.get("order-2"))

        q.start_worker()
        print(await job.result(timeout="10s"))
        rows = await (await db.execute(f"SELECT number FROM {SCHEMA}.bill")).fetchall()
        print("bills:", rows)
        await db.commit()

    with psycopg.connect(URL) as db_again:
        db_again.execute("SET client_min_messages TO warning")
        db_again.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


if __name__ == "__main__":
    if URL.startswith("postgres"):
        asyncio.run(main())
    else:
        print("Set PSYQUEUE_URL to the address of a database, e.g. postgresql://localhost/shop")

# prints:
# | seen before the commit: None
# | after the commit it is pending
# | after the rollback: None
# | order 1 billed in attempt 2
# | bills: [(1,)]
