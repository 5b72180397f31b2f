"""Metrics: a FastAPI application shows on its own page, for Prometheus, what it does and what is in the store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fastapi import FastAPI, Response
from httpx2 import ASGITransport, AsyncClient
from prometheus_client import CONTENT_TYPE_LATEST

from psyqueue import PsyQueue, Retry
from psyqueue.backends import sqlite
from psyqueue.plugins import Metrics

metrics = Metrics()
q = PsyQueue().use(metrics)


@q.handle("mail.send", queue="mail")
async def send(to: str) -> None:
    if not to.endswith("example.org"):
        raise Retry(after="1h", reason="the server of the receiver is away")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with q:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/metrics")  # a worker has this page by itself: psyqueue worker shop:q --health-port 8001
async def show() -> Response:
    await metrics.look()
    return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


async def main(folder: str) -> None:
    q.use(sqlite(path=Path(folder) / "jobs.db"))  # in a real application where q is made
    async with lifespan(app), AsyncClient(transport=ASGITransport(app), base_url="http://shop") as client:
        for host in ("example.org", "example.com", "example.org"):
            await send.enqueue(f"ada@{host}")
        for _ in range(2):
            await q.process_next("mail")
        page = (await client.get("/metrics")).text
    told = ("completed_total", "retried_total", "duration_seconds_count", "queue_jobs")
    for line in page.splitlines():
        name, value = line.split("{")[0], line.split(" ")[-1]
        if name.startswith("psyqueue_") and name.endswith(told) and value != "0.0":
            print(line)


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        asyncio.run(main(made))

# prints:
# | psyqueue_jobs_completed_total{name="mail.send",queue="mail"} 1.0
# | psyqueue_jobs_retried_total{name="mail.send",queue="mail"} 1.0
# | psyqueue_job_duration_seconds_count{name="mail.send",queue="mail"} 2.0
# | psyqueue_queue_jobs{queue="mail",status="scheduled"} 1.0
# | psyqueue_queue_jobs{queue="mail",status="pending"} 1.0
# | psyqueue_queue_jobs{queue="mail",status="completed"} 1.0
