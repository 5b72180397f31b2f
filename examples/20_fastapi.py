"""FastAPI: the queue opens and closes with the application; endpoints enqueue, are told when they cannot, and look."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from httpx2 import ASGITransport, AsyncClient

from psyqueue import PsyQueue, PsyQueueError, QueueFull, StoreError
from psyqueue.backends import sqlite

q = PsyQueue()


@q.handle("signup.welcome", queue="mail")
async def welcome(email: str) -> str:
    return f"mail to {email}"


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with q:  # each process of the server opens the store, and closes it when it ends
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/signup", status_code=202)
async def sign_up(email: str, idempotency_key: Annotated[str | None, Header()] = None) -> dict[str, Any]:
    # A client that repeats its request does not get a second mail.
    enqueue = welcome.options(idempotency_key=idempotency_key) if idempotency_key else welcome
    job = await enqueue.enqueue(email)
    return {"job": job.id, "created": job.created}


@app.exception_handler(QueueFull)
@app.exception_handler(StoreError)
async def not_now(_: Request, error: PsyQueueError) -> JSONResponse:
    return JSONResponse({"error": error.code}, 429 if isinstance(error, QueueFull) else 503, {"Retry-After": "5"})


@app.get("/jobs/{job_id}")
async def look(job_id: str) -> dict[str, Any]:
    view = await q.get(job_id)
    if view is None:
        raise HTTPException(404, "no such job")
    return {"status": view.status, "result": view.result}


async def main(folder: str) -> None:
    q.use(sqlite(path=Path(folder) / "jobs.db"))  # in a real application where q is made
    async with lifespan(app), AsyncClient(transport=ASGITransport(app), base_url="http://shop") as client:
        for _ in range(2):
            answer = await client.post("/signup", params={"email": "ada@example.org"}, headers={"Idempotency-Key": "7"})
            print(answer.status_code, "created:", answer.json()["created"])
        job = f"/jobs/{answer.json()['job']}"
        print((await client.get(job)).json())
        await q.limits("mail", pending_max=1)
        print(await client.post("/signup", params={"email": "bob@example.org"}))
        q.start_worker("mail")  # usually a process of its own: psyqueue worker shop:q
        await q.handle_of(answer.json()["job"]).wait(timeout="10s")
        print((await client.get(job)).json())


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        asyncio.run(main(made))

# prints:
# | 202 created: True
# | 202 created: False
# | {'status': 'pending', 'result': None}
# | <Response [429 Too Many Requests]>
# | {'status': 'completed', 'result': 'mail to ada@example.org'}
