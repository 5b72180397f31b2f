"""From one machine to many: the first job once more, on a Redis server. Only the address is another one.

PSYQUEUE_URL names the server, such as redis://localhost:6379/0. Without it there is nothing to show.
"""

import asyncio
import os

from psyqueue import PsyQueue

URL = os.environ.get("PSYQUEUE_URL", "")


async def main() -> None:
    # A prefix of its own: what else lies on this server is left alone.
    q = PsyQueue.from_url(URL, key_prefix=f"psyqueue-example-{os.getpid()}:")

    @q.handle("email.send", queue="mail")
    async def send_email(to: str, subject: str = "Hello") -> str:
        print(f"sending {subject!r} to {to}")
        return f"sent to {to}"

    async with q:
        job = await send_email.enqueue("ada@example.org", subject="Welcome")
        print("after enqueue it is", (await job.refresh()).status)

        q.start_worker()  # usually on another machine: psyqueue worker module:q
        print("result:", await job.result(timeout="10s"))
        print("at the end it is", (await job.refresh()).status)

        durability = await q.durability()
        print("if a worker dies, its jobs are", durability.process_crash)


if __name__ == "__main__":
    if URL.startswith(("redis", "valkey", "unix:")):
        asyncio.run(main())
    else:
        print("Set PSYQUEUE_URL to the address of a Redis server, e.g. redis://localhost:6379/0")

# prints:
# | after enqueue it is pending
# | sending 'Welcome' to ada@example.org
# | result: sent to ada@example.org
# | at the end it is completed
# | if a worker dies, its jobs are safe
