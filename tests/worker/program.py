"""A worker in a process of its own: `python program.py PLACE NAME [--lease MS]`, or `python -m worker.program …`.

PLACE: as for support.store_at. Each run of a handler writes a file into the folder WORKER_FOLDER when it begins.
A TERM or INT asks it to stop.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psyqueue import Context, Kernel, PsyQueue
from psyqueue.backend import AnyOutcome, Fetch, Op
from psyqueue.kernel import lease_keeper
from psyqueue.kernel.worker import Worker, WorkerOptions
from support.store_at import store_at

q = PsyQueue(name="program")
FOLDER = Path(os.environ.get("WORKER_FOLDER", "."))


def note(name: str, text: str) -> None:
    """Whole or not at all."""
    (FOLDER / f"{name}.new").write_text(text)
    (FOLDER / f"{name}.new").rename(FOLDER / name)


class Death:
    """A plugin: the process is killed around the call that fetches the first job, or that acknowledges it."""

    name = "death"

    def __init__(self, when: str) -> None:
        self._when = when

    def init(self, kernel: Kernel) -> None:
        kernel.wrap_backend(lambda inner: _Deadly(inner, self._when))


class _Deadly:
    def __init__(self, inner: Any, when: str) -> None:
        self._inner = inner
        self._when = when

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def settle(self, op: Op, session_id: str, outcomes: Sequence[AnyOutcome], fetch: Fetch | None = None) -> Any:
        if outcomes and self._when == "before-ack":
            os.kill(os.getpid(), signal.SIGKILL)
        reply = await self._inner.settle(op, session_id, outcomes, fetch)
        if (outcomes and self._when == "after-ack") or (reply.deliveries and self._when == "after-fetch"):
            os.kill(os.getpid(), signal.SIGKILL)
        return reply


@q.handle("quick", queue="q")
async def quick(ctx: Context) -> int:
    """Leaves a mark for each run."""
    note(f"quick-{ctx.fence}", str(os.getpid()))
    return ctx.fence


@q.handle("wait", queue="q")
async def wait(ctx: Context, n: int) -> str:
    """Ends when a file says so."""
    note(f"began-{n}-{ctx.fence}", str(os.getpid()))
    while not (FOLDER / f"go-{n}").exists():
        await asyncio.Event().wait() if ctx.lease_lost else await tick()
    return f"fence {ctx.fence}"


@q.handle("block", queue="q")
def block(ctx: Context) -> None:
    """A thread that never comes back."""
    note("blocked", str(os.getpid()))
    threading.Event().wait()


@q.handle("child", queue="q", mode="process")
def child(ctx: Context, n: int) -> int:
    """In a process of its own, ends when a file says so; the function lives in the main module."""
    note(f"child-{n}-{ctx.fence}", str(os.getpid()))
    moment, end = threading.Event(), time.monotonic() + 30
    while not (FOLDER / f"go-{n}").exists() and time.monotonic() < end:
        moment.wait(0.01)
    return os.getpid()


@q.handle("crash", queue="q", max_retries=10)
def crash() -> None:
    os._exit(9)


async def tick() -> None:
    """A moment, off the loop."""
    await asyncio.to_thread(threading.Event().wait, 0.01)


async def main(name: str, lease_ms: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with q:
        worker = Worker(q._core, WorkerOptions(queues=("q",), name=name, concurrency=4, lease_ms=lease_ms))
        q._core.workers.append(worker)
        q.events.on("worker:started", lambda event: note(f"started-{name}", str(os.getpid())))
        worker.start()
        await stop.wait()
        await worker.stop(grace="20s")


async def unguarded(name: str) -> None:
    """No `async with`, no signal handler of its own: whatever asyncio.run does at its end has to do."""
    await q.start()
    q.events.on("worker:started", lambda event: note(f"started-{name}", str(os.getpid())))
    q.start_worker("q", concurrency=4)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("place")
    parser.add_argument("name")
    parser.add_argument("--lease", type=int, default=1_500)
    parser.add_argument("--unguarded", action="store_true")
    parser.add_argument("--die", default="")
    asked = parser.parse_args()
    lease_keeper.RENEWALS_PER_LEASE = 10  # a short lease, and a busy machine
    q.use(store_at(asked.place))
    if asked.die:
        q.use(Death(asked.die))
    # Children of a shell's background job ignore it, and so would this program; asyncio.run looks for this one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asyncio.run(unguarded(asked.name) if asked.unguarded else main(asked.name, asked.lease))
