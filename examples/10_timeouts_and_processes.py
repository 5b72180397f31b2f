"""Where a handler runs: on the event loop, in a thread, in a process of its own; and what a timeout stops there."""

import asyncio
import os
import threading
from tempfile import TemporaryDirectory

from psyqueue import JobDead, PsyQueue
from psyqueue.backends import sqlite

q = PsyQueue()


@q.handle("on-the-loop", queue="work", timeout="100ms", max_retries=0)
async def wait_for_ever() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        print("the coroutine was cancelled")  # a timeout cancels an `async def`


@q.handle("in-a-thread", queue="work")
def which_thread() -> str:
    # A `def` runs in a thread. Nothing can stop a thread: work that may hang belongs into a process.
    return "the main thread" if threading.current_thread() is threading.main_thread() else "a thread"


@q.handle("in-a-process", queue="work", mode="process")
def which_process(worker: int) -> str:
    return "the worker's process" if os.getpid() == worker else "a process of its own"


@q.handle("busy", queue="work", mode="process", timeout="100ms", max_retries=0)
def compute_for_ever() -> None:
    while True:
        pass


async def main(folder: str) -> None:
    q.use(sqlite(path=f"{folder}/jobs.db"))
    async with q:
        q.start_worker()
        print("def:", await (await which_thread.enqueue()).result(timeout="10s"))
        print("process:", await (await which_process.enqueue(os.getpid())).result(timeout="10s"))
        for handler in (wait_for_ever, compute_for_ever):
            try:
                await (await handler.enqueue()).result(timeout="10s")
            except JobDead as exc:
                print(f"{handler.name}: {exc}")


if __name__ == "__main__":  # a process imports this file to find the handler, and must not run main() again
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | def: a thread
# | process: a process of its own
# | the coroutine was cancelled
# | on-the-loop: [JOB_DEAD] job '…' is dead (exhausted); … handler 'on-the-loop' ran longer than its timeout of 100 ms
# | busy: [JOB_DEAD] job '…' is dead (exhausted); … handler 'busy' ran longer than its timeout of 100 ms
