"""FastAPI and SQLAlchemy on PostgreSQL: an endpoint writes its row and its job in one transaction.

PSYQUEUE_URL names the server, such as postgresql://localhost/shop. Without it there is nothing to show.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from psyqueue import PsyQueue

URL = os.environ.get("PSYQUEUE_URL", "")
# A schema of its own: what else lies in this database is left alone.
SCHEMA = f"psyqueue_example_{os.getpid()}"

q = PsyQueue.from_url(URL or "postgresql://localhost", schema=SCHEMA)
engine = create_async_engine(URL.replace("postgresql:", "postgresql+asyncpg:") or "postgresql+asyncpg://")
sessions = async_sessionmaker(engine)
app = FastAPI()


@q.handle("order.confirm", queue="orders")
async def confirm(number: int) -> str:
    return f"order {number} confirmed"


async def transaction() -> AsyncIterator[AsyncSession]:
    """Of one request: committed when the endpoint has returned, rolled back when it raised."""
    async with sessions.begin() as session:
        yield session


@app.put("/orders/{number}")
async def place(
    number: int, session: Annotated[AsyncSession, Depends(transaction, scope="function")]
) -> dict[str, str]:
    job = await confirm.options(conn=session).enqueue(number)  # nobody sees it before the commit
    try:
        await session.execute(text(f"INSERT INTO {SCHEMA}.placed VALUES (:number)"), {"number": number})
    except IntegrityError:
        raise HTTPException(409, f"order {number} is placed already") from None
    return {"job": job.id}


async def main() -> None:
    async with q, AsyncClient(transport=ASGITransport(app), base_url="http://shop") as client:
        async with engine.begin() as db:
            await db.execute(text(f"CREATE TABLE {SCHEMA}.placed (number int PRIMARY KEY)"))
        placed = await client.put("/orders/1")
        refused = await client.put("/orders/1")
        print(placed.status_code, refused.status_code, refused.json()["detail"])
        print("jobs:", len(await q.jobs(queue="orders")))
        q.start_worker()
        print(await q.handle_of(placed.json()["job"]).result(timeout="10s"))
    async with engine.begin() as db:
        await db.execute(text("SET client_min_messages TO warning"))
        await db.execute(text(f"DROP SCHEMA {SCHEMA} CASCADE"))
    await engine.dispose()


if __name__ == "__main__":
    if URL.startswith("postgres"):
        asyncio.run(main())
    else:
        print("Set PSYQUEUE_URL to the address of a database, e.g. postgresql://localhost/shop")

# prints:
# | 200 409 order 1 is placed already
# | jobs: 1
# | order 1 confirmed
