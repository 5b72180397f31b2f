"""Events tell what happened, after the store committed it: patterns, async subscribers, unsubscribing."""

import asyncio
from tempfile import TemporaryDirectory

from psyqueue import Context, Event, PsyQueue
from psyqueue.backends import sqlite

q = PsyQueue()
reported = asyncio.Event()


@q.handle("flaky", queue="work", backoff="fixed", backoff_base="10ms", backoff_jitter=False)
async def flaky(ctx: Context) -> str:
    if ctx.attempt == 1:
        raise ConnectionError("not yet")
    return "fine"


def show(event: Event) -> None:
    """A plain function is called at once: it must not block."""
    details = {key: event.data[key] for key in ("attempt", "delay_ms", "result") if key in event.data}
    print(event.type, details or "")


async def report(event: Event) -> None:
    """An async one runs beside the work, event after event."""
    print("report:", event.data["job_id"], "at", event.at.isoformat())
    reported.set()


async def main(folder: str) -> None:
    q.use(sqlite(path=f"{folder}/jobs.db"))
    stop_showing = q.events.on("job:*", show)
    stop_reporting = q.events.on("job:completed", report)
    q.events.on("kernel:*", lambda event: print(event.type))
    async with q:
        await flaky.enqueue()
        q.start_worker()
        await reported.wait()
        stop_showing()
        stop_reporting()
        again = await flaky.enqueue()
        print("the second job:", await again.result(timeout="10s"))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | kernel:started
# | job:enqueued
# | job:started {'attempt': 1}
# | job:failed {'attempt': 1}
# | job:retry {'attempt': 1, 'delay_ms': 10}
# | job:started {'attempt': 2}
# | job:completed {'result': 'fine'}
# | report: … at …
# | the second job: fine
# | kernel:stopped
