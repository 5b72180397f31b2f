"""Who takes part in a storm: workers, producers, and during a move whoever moves and whoever looks on.

    python -m crash.roles --role worker --name worker-1 --folder FOLDER --store PLACE [--new PLACE]
    python -m crash.roles --serve

Each is a process of its own, which may be killed at any time, and writes down what it does. `--serve`: as a nursery.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psyqueue.backends._postgres
import psyqueue.backends._redis
import psyqueue.backends._sqlite
import psyqueue.cli.migrate_live
import psyqueue.kernel.worker  # noqa: F401 - what a child would import by and by
from crash.nursery import serve
from psyqueue import Kernel, PsyQueue, Retry
from psyqueue.backend import BackendAdapter
from psyqueue.cli.main import run
from psyqueue.errors import NamespaceFrozen, StoreError, StoreUnavailable
from psyqueue.kernel.context import Context
from psyqueue.moving import Moving
from psyqueue.moving.backend import MovingBackend
from psyqueue.testing.history import RecordedBackend, Recorder
from psyqueue.testing.history.events import Run
from support.store_at import store_at, url_of

LEASE_MS = 2_000
QUEUE = "q"
FAR = "far"
"""The queue of jobs that are due when the storm is long over."""
LINE = "line-"
"""In the ids of jobs with an order key."""
FORGOTTEN = "forgotten-"
"""How the name of a process begins that only knows the old store."""
STEPS = {
    "run": ("--yes", "--drain", "3s", "--include", "completed"),
    "finish": ("--yes", "--wait", "30s"),
    "rollback": (),
}
"""Of a move, with what the command is told."""


@dataclass(frozen=True)
class Place:
    """Where a storm happens; with `new`, the store to which the jobs move meanwhile."""

    folder: Path
    where: str = ""
    new: str = ""

    @property
    def store(self) -> str:
        return self.where or str(self.folder / "jobs.db")

    @property
    def stop(self) -> Path:
        """When this file is there, producers stop."""
        return self.folder / "stop"

    def history(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"


class WrittenDown:
    """The plugin that puts the recorder around the store."""

    name = "history"

    def __init__(self, recorder: Recorder, store: str = "") -> None:
        self._recorder = recorder
        self._store = store

    def init(self, kernel: Kernel) -> None:
        kernel.wrap_backend(self._wrap)

    def _wrap(self, adapter: BackendAdapter) -> Any:
        return RecordedBackend(adapter, self._recorder, store=self._store)


def stores_at(place: Place, recorder: Recorder) -> tuple[Any, Any]:
    """Of a move, each written down by itself: what happened where is what counts."""
    return (
        RecordedBackend(store_at(place.store).adapter, recorder, store="old"),
        RecordedBackend(store_at(place.new).adapter, recorder, store="new"),
    )


def queue_at(place: Place, recorder: Recorder) -> PsyQueue:
    if not place.new:
        return PsyQueue().use(store_at(place.store)).use(WrittenDown(recorder))
    if recorder.process.startswith(FORGOTTEN):
        return PsyQueue().use(store_at(place.store)).use(WrittenDown(recorder, "old"))
    return PsyQueue().use(Moving(MovingBackend(*stores_at(place, recorder))))


@contextlib.asynccontextmanager
async def up_at_last(queue: PsyQueue) -> AsyncIterator[None]:
    await at_last(queue.start)
    try:
        yield
    finally:
        await queue.stop()


async def at_last(start: Callable[[], Awaitable[object]]) -> None:
    """Whoever starts while the server is away is started again by a supervisor."""
    while True:
        try:
            await start()
        except StoreUnavailable:
            await pause_ms(100)
        else:
            return


async def work(place: Place, name: str) -> None:
    """A worker until SIGTERM. Handlers take some milliseconds, some a second; one run in ten asks for another."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    recorder = Recorder(place.history(name), name)
    queue = queue_at(place, recorder)
    chance = random.Random(name)

    @queue.handle("work", queue=QUEUE, max_retries=20, backoff="fixed", backoff_base=0.05)
    async def handler(ctx: Context, n: int) -> int:
        run = Run(ctx.job.id, ctx.job.generation, ctx.fence)
        recorder.start(run)
        try:
            await pause_ms(chance.uniform(0, 20) if chance.random() < 0.9 else chance.uniform(100, 1_500))
            if chance.random() < 0.1:
                raise Retry(after=0.02, reason="by chance")
            return n
        finally:
            recorder.end(run)

    async with up_at_last(queue):
        queue.start_worker(QUEUE, concurrency=20, lease=LEASE_MS / 1000, name=name)
        await asked.wait()


async def produce(place: Place, name: str) -> None:
    """Batches of jobs until told to stop. What the application is told is written down, too."""
    recorder = Recorder(place.history(name), name)
    queue = queue_at(place, recorder)
    chance = random.Random(name)
    queue.handle("work", lambda n: n, queue=QUEUE)
    number = 0
    async with up_at_last(queue):
        while not place.stop.exists():
            items = []
            # A call with a job whose order key is in use in the old store of a move goes there with all its jobs.
            one_line = {"order_key": f"order-{chance.randint(0, 20)}"} if chance.random() < 0.2 else None
            for _ in range(chance.randint(1, 10)):
                number += 1
                options = {"id": f"{name}-{LINE if one_line else ''}{number:05}", **(one_line or some_options(chance))}
                items.append({"name": "work", "payload": {"n": 1}, "options": options})
            call = recorder.invoke("enqueue_bulk")
            try:
                handles = await queue.enqueue_bulk(items)
            except (StoreError, NamespaceFrozen) as exc:
                # What became of it was written down where it happened; these ids are not used again.
                recorder.fail(call, exc.code)
            else:
                recorder.ok(call, replies=tuple((handle.id, True) for handle in handles))
            await pause_ms(chance.uniform(20, 80))
    recorder.close()


def some_options(chance: random.Random) -> dict[str, Any]:
    """Most have none; keys are shared by all producers."""
    dice = chance.random()
    if dice < 0.1:
        return {"idempotency_key": f"key-{chance.randint(0, 200)}"}
    if dice < 0.15:
        on_conflict = chance.choice(("existing", "replace"))
        return {"unique_key": f"unique-{chance.randint(0, 20)}", "on_conflict": on_conflict}
    if dice < 0.2:
        return {"delay": chance.uniform(0, 2)}
    return {"queue": FAR, "delay": "1d"} if dice < 0.22 else {}


async def look_on(place: Place, name: str) -> None:
    """Which jobs could be started in either store, again and again until SIGTERM."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    recorder = Recorder(place.history(name), name)
    stores = stores_at(place, recorder)
    for store in stores:
        await at_last(store.connect)
    while not asked.is_set():
        for store in stores:
            with contextlib.suppress(StoreUnavailable):
                await store.look()
        await pause_ms(100)
    for store in stores:
        await store.disconnect()


def move(place: Place, name: str) -> int:
    """One command of a move, the one that is behind the first dash of the name."""
    recorder = Recorder(place.history(name), name)
    step = name.split("-")[1]
    call = recorder.invoke(step)
    code = run(["migrate", step, "--from", url_of(place.store), "--to", url_of(place.new), "--json", *STEPS[step]])
    if code:
        recorder.fail(call, str(code))
    else:
        recorder.ok(call)
    return code


async def pause_ms(duration_ms: float) -> None:
    """What a storm is made of: time has to pass in its processes."""
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=duration_ms / 1000)


ROLES: dict[str, Callable[[Place, str], Coroutine[Any, Any, None]]] = {
    "worker": work,
    "producer": produce,
    "observer": look_on,
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--role", choices=[*ROLES, "mover"], required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--new", default="")
    options = parser.parse_args(arguments)
    place = Place(options.folder, options.store, options.new)
    if options.role == "mover":
        return move(place, options.name)
    asyncio.run(ROLES[options.role](place, options.name))
    return 0


if __name__ == "__main__":
    if "--serve" in sys.argv:
        serve(main)
    else:
        sys.exit(main(sys.argv[1:]))
