"""A worker of workflows until it is killed: `python -m crash.workflow_workers --serve`."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from crash.nursery import serve
from psyqueue import Handler, PsyQueue
from psyqueue.plugins import Flow, Workflows
from support.store_at import store_at

QUEUE = "steps"
LEASE_S = 1.0
AFTER: dict[str, tuple[str, ...]] = {
    "take": (),
    "reserve": ("take",),
    "charge": ("take",),
    "ship": ("reserve", "charge"),
}
BAD = "charge"
"""The step that is dead in every third workflow."""


def order(number: int, undo: Handler[..., None]) -> Flow:
    """Two branches that meet; what they did is undone where `BAD` dies."""
    flow = Flow("order")
    for step, after in AFTER.items():
        payload = {"step": step, "number": number}
        flow.add(step, "step", payload, queue=QUEUE, after=after, compensate=undo.build(step, number))
    return flow


def is_bad(step: str, number: int) -> bool:
    return step == BAD and number % 3 == 0


async def work(place: str, words: Path) -> None:
    q = PsyQueue().use(store_at(place)).use(Workflows())
    words_fd = os.open(words, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(*what: object) -> None:
        os.write(words_fd, (" ".join(map(str, what)) + "\n").encode())

    async def moment() -> None:
        await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=random.uniform(0, 0.3))

    @q.handle("step", queue=QUEUE, max_retries=0)
    async def do(step: str, number: int) -> str:
        await moment()
        if is_bad(step, number):
            raise ValueError("no money")
        note("did", number, step)
        return step

    @q.handle("undo", queue=QUEUE)
    async def undo(step: str, number: int) -> None:
        await moment()
        note("undid", number, step)

    async with q:
        q.start_worker(concurrency=5, lease=LEASE_S)
        await asyncio.get_running_loop().create_future()


def main(arguments: Sequence[str]) -> int:
    place, words = arguments
    asyncio.run(work(place, Path(words)))
    return 0


if __name__ == "__main__":
    sys.exit(serve(main))  # type: ignore[func-returns-value]
