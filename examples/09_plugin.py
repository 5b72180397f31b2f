"""A plugin: one class with a name that adds middleware, a background service and an API of its own to a queue."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from tempfile import TemporaryDirectory
from typing import Any

from psyqueue import Context, Kernel, PsyQueue
from psyqueue.backends import sqlite


class Statistics:
    """Counts runs by handler name, offered to the application as `q.get_exposed("statistics")`."""

    name = "statistics"
    version = "1.0"
    depends = "backend"  # starts after the store, stops before it

    def __init__(self) -> None:
        self.started: Counter[str] = Counter()
        self.completed: Counter[str] = Counter()
        self._inbox: asyncio.Queue[str] = asyncio.Queue()
        self._changed = asyncio.Condition()

    def init(self, kernel: Kernel) -> None:
        """Called by use(): what it registers is undone if it raises."""
        kernel.pipeline("process", self._count, phase="observe")
        kernel.events.on("job:completed", lambda event: self._inbox.put_nowait(event.data["name"]))
        kernel.service(self._collect)
        kernel.expose("statistics", self)

    async def start(self) -> None:
        print("statistics start")

    async def stop(self) -> None:
        print("statistics stop:", dict(self.started))

    async def until_completed(self, name: str, count: int) -> int:
        async with self._changed:
            await self._changed.wait_for(lambda: self.completed[name] >= count)
        return self.completed[name]

    async def _count(self, ctx: Context, call_next: Callable[[], Awaitable[Any]]) -> None:
        self.started[ctx.job.name] += 1
        await call_next()

    async def _collect(self) -> None:
        """A service runs from start to stop; if it raised, it would be logged and started again."""
        while True:
            name = await self._inbox.get()
            async with self._changed:
                self.completed[name] += 1
                self._changed.notify_all()


async def main(folder: str) -> None:
    q = PsyQueue().use(sqlite(path=f"{folder}/jobs.db")).use(Statistics())

    @q.handle("square", queue="numbers")
    async def square(number: int) -> int:
        return number * number

    async with q:
        q.start_worker()
        jobs = await q.enqueue_bulk([square.build(number) for number in range(4)])
        print([await job.result(timeout="10s") for job in jobs])
        print("completed:", await q.get_exposed("statistics").until_completed("square", 4))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | statistics start
# | [0, 1, 4, 9]
# | completed: 4
# | statistics stop: {'square': 4}
