"""A first job: register a handler, enqueue a call of it, run a worker, get the result."""

import asyncio
from tempfile import TemporaryDirectory

from psyqueue import PsyQueue
from psyqueue.backends import sqlite

q = PsyQueue()


@q.handle("email.send", queue="mail")
async def send_email(to: str, subject: str = "Hello") -> str:
    print(f"sending {subject!r} to {to}")
    return f"sent to {to}"


async def main(folder: str) -> None:
    # In one line, where the path is known from the start: q = PsyQueue().use(sqlite(path="./jobs.db"))
    q.use(sqlite(path=f"{folder}/jobs.db"))
    async with q:
        job = await send_email.enqueue("ada@example.org", subject="Welcome")
        print("after enqueue it is", (await job.refresh()).status)

        q.start_worker()  # usually in another process: psyqueue worker module:q
        print("result:", await job.result(timeout="10s"))
        print("at the end it is", (await job.refresh()).status)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | after enqueue it is pending
# | sending 'Welcome' to ada@example.org
# | result: sent to ada@example.org
# | at the end it is completed
