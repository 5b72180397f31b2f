"""Workers inside an application: start them beside it, look at their health, stop without losing a running job."""

import asyncio
from tempfile import TemporaryDirectory

from psyqueue import Event, PsyQueue
from psyqueue.backends import sqlite

q = PsyQueue()
started, may_end = asyncio.Event(), asyncio.Event()


@q.handle("thumbnail", queue="images")
async def thumbnail(picture: str) -> str:
    started.set()
    await may_end.wait()
    return f"thumbnail of {picture}"


@q.handle("mail", queue="mail")
async def mail(to: str) -> str:
    return f"mail to {to}"


def show(event: Event) -> None:
    if event.data["worker"].startswith("images"):
        print(event.type, event.data["worker"])


async def main(folder: str) -> None:
    q.use(sqlite(path=f"{folder}/jobs.db"))
    q.events.on("worker:*", show)
    async with q:  # stops all workers at the end, too
        images = q.start_worker("images", concurrency=1, prefetch=0, name="images-1")
        q.start_worker("mail", concurrency=20, name="mail-1")
        print(await (await mail.enqueue("ada@example.org")).result(timeout="10s"))

        running, waiting = await q.enqueue_bulk([thumbnail.build("cat.png"), thumbnail.build("dog.png")])
        await started.wait()
        health = images.health()
        print("health:", {key: health[key] for key in ("worker", "running", "slots", "stopping")})

        # Graceful: nothing new is started, what runs may end within the grace.
        async with asyncio.TaskGroup() as group:
            group.create_task(images.stop(grace="10s"))
            await asyncio.sleep(0)  # lets it begin
            print("stopping:", images.health()["stopping"])
            may_end.set()
        print("the running job:", await running.result(timeout="10s"))
        print("the waiting job:", (await waiting.refresh()).status)

        q.start_worker("images", name="images-2")
        print("picked up:", await waiting.result(timeout="10s"))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | worker:started images-1
# | mail to ada@example.org
# | health: {'worker': 'images-1', 'running': 1, 'slots': 1, 'stopping': False}
# | stopping: True
# | worker:stopped images-1
# | the running job: thumbnail of cat.png
# | the waiting job: pending
# | worker:started images-2
# | picked up: thumbnail of dog.png
# | worker:stopped images-2
