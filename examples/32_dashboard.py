"""A dashboard in a FastAPI application: its own users with their roles; jobs looked at, and run again, in a browser."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from starlette.requests import HTTPConnection

from psyqueue import PsyQueue
from psyqueue.backends import sqlite
from psyqueue.dashboard import Dashboard, Visitor

q = PsyQueue(name="shop")
full = {"ada@example.org"}


@q.handle("mail.send", queue="mail", max_retries=0)
async def send(to: str) -> str:
    if to in full:
        raise OSError(f"the mailbox of {to} is full")
    return "sent"


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with q:
        yield


USERS: dict[str, Any] = {"eve": {"name": "Eve", "role": "operator"}, "bob": {"name": "Bob", "role": "viewer"}}


def who(request: HTTPConnection) -> Visitor | None:
    """From the session, header or token that your application knows. None: may not come in."""
    user = USERS.get(request.headers.get("x-user", ""))
    return None if user is None else Visitor(user["role"], user["name"])


app = FastAPI(lifespan=lifespan)
app.mount("/psyqueue", Dashboard(q, access=who))


async def main(folder: str) -> None:
    q.use(sqlite(path=Path(folder) / "jobs.db"))  # in a real application where q is made
    async with lifespan(app), AsyncClient(transport=ASGITransport(app), base_url="http://shop") as browser:
        job = await send.enqueue("ada@example.org")
        await q.process_next("mail")
        print("nobody:", (await browser.get("/psyqueue/")).status_code)
        for user in ("bob", "eve"):
            page = await browser.get(f"/psyqueue/job?id={job}", headers={"x-user": user})
            print(f"{user} sees", *re.findall(r"the mailbox of \S+ is full(?=</p>)", page.text), end=", and may ")
            print(", ".join(re.findall(r"<button[^>]*>(\w+)", page.text)) or "only look")
        full.clear()
        form = {"id": job.id, "form_token": browser.cookies["psyqueue_form"]}  # what the button "Retry" sends
        await browser.post("/psyqueue/jobs/retry", data=form, headers={"x-user": "eve"})
        await q.process_next("mail")
        print("after eve's retry:", await job.result())


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        asyncio.run(main(made))

# prints:
# | nobody: 403
# | bob sees the mailbox of ada@example.org is full, and may only look
# | eve sees the mailbox of ada@example.org is full, and may Retry
# | after eve's retry: sent
