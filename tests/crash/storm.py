"""Workers and producers on one store, killed and stopped at random; the history tells whether a promise broke.

    cd tests; python -m crash.storm --kills 200 --seed 7
    cd tests; python -m crash.storm --store redis

`--store`: "sqlite"; "redis" or "postgres", or a kind of it ("valkey9", "postgres16"), for a server of its own that is
killed, too, and throws its clients out; or a place such as redis://localhost#storm: of which only the clients suffer.
Each process writes down what it does (psyqueue.testing.history); in the end everything is healed, drained and read, and
the checker has the last word. The plan of faults follows from the seed; what meets them does not.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crash.harms import harm, server_named
from psyqueue import Kernel, PsyQueue, Retry
from psyqueue.backend import BackendAdapter, Filter, Limits, Op
from psyqueue.errors import StoreError, StoreUnavailable
from psyqueue.kernel.context import Context
from psyqueue.testing.history import RecordedBackend, Recorder, Report, check_history
from psyqueue.testing.history.events import Run
from support.servers import Server
from support.store_at import place_on, store_at
from support.waiting import wait_until

LEASE_MS = 2_000
QUEUE = "q"
LIVE = ("waiting", "scheduled", "pending", "active")
DRAIN_S = 120.0
START_S = 60.0
TESTS = Path(__file__).parent.parent
STORM = (sys.executable, "-m", "crash.storm")


@dataclass(frozen=True)
class Place:
    """Where a storm happens."""

    folder: Path
    where: str = ""

    @property
    def store(self) -> str:
        return self.where or str(self.folder / "jobs.db")

    @property
    def stop(self) -> Path:
        """When this file is there, producers stop."""
        return self.folder / "stop"

    def history(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"


# ── children ──────────────────────────────────────────────────────────────────────────────────────────────────────────
class WrittenDown:
    """The plugin that puts the recorder around the store."""

    name = "history"

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def init(self, kernel: Kernel) -> None:
        kernel.wrap_backend(self._wrap)

    def _wrap(self, adapter: BackendAdapter) -> Any:
        return RecordedBackend(adapter, self._recorder)


def queue_at(place: Place, recorder: Recorder) -> PsyQueue:
    return PsyQueue().use(store_at(place.store)).use(WrittenDown(recorder))


@asynccontextmanager
async def up_at_last(queue: PsyQueue) -> AsyncIterator[None]:
    """Whoever starts while the server is away is started again by a supervisor."""
    while True:
        try:
            await queue.start()
            break
        except StoreUnavailable:
            await pause_ms(100)
    try:
        yield
    finally:
        await queue.stop()


async def work(place: Place, name: str) -> None:
    """A worker until SIGTERM. Handlers take some milliseconds, some a second; one run in ten asks for another."""
    recorder = Recorder(place.history(name), name)
    queue = queue_at(place, recorder)
    chance = random.Random(name)
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)

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
    """Batches of jobs until told to stop; some with an idempotency key that all producers share."""
    recorder = Recorder(place.history(name), name)
    queue = queue_at(place, recorder)
    chance = random.Random(name)
    queue.handle("work", lambda n: n, queue=QUEUE)
    number = 0
    async with up_at_last(queue):
        while not place.stop.exists():
            items = []
            for _ in range(chance.randint(1, 10)):
                number += 1
                options = {"id": f"{name}-{number:05}"}
                if chance.random() < 0.1:
                    options["idempotency_key"] = f"key-{chance.randint(0, 200)}"
                items.append({"name": "work", "payload": {"n": 1}, "options": options})
            try:
                await queue.enqueue_bulk(items)
            except StoreError:
                continue  # written down as unknown or refused; these ids are not used again
            await pause_ms(chance.uniform(20, 80))
    recorder.close()


async def pause_ms(duration_ms: float) -> None:
    """What a storm is made of: time has to pass in its processes."""
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=duration_ms / 1000)


# ── nemesis ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass
class Crowd:
    """The processes of a storm."""

    place: Place
    recorder: Recorder
    server: Server | None = None
    alive: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    born: int = 0

    def start(self, role: str) -> str:
        self.born += 1
        name = f"{role}-{self.born}"
        what = ["--role", role, "--name", name, "--folder", str(self.place.folder), "--store", self.place.store]
        # Its words go to a file: a full pipe would stop it, and so would nobody reading.
        with (self.place.folder / f"{name}.log").open("wb") as words:
            self.alive[name] = subprocess.Popen([*STORM, *what], cwd=TESTS, stdout=words, stderr=words)
        return name

    def named(self, role: str) -> list[str]:
        return [name for name in self.alive if name.startswith(role)]

    def any_at_work(self, role: str, chance: random.Random) -> str:
        """One that has spoken to the store: who is still on its way there can lose nothing."""
        at_work: list[str] = []

        def is_one_at_work() -> bool:
            at_work[:] = [each for each in self.named(role) if _size(self.place.history(each))]
            return bool(at_work)

        assert wait_until(is_one_at_work, limit_s=START_S), f"no {role} is at work after {START_S} s"
        return chance.choice(at_work)

    def kill(self, name: str) -> None:
        self.recorder.fault("killed", name)
        child = self.alive.pop(name)
        child.kill()
        child.wait()

    def stop_for(self, name: str, seconds: float) -> None:
        child = self.alive[name]
        self.recorder.fault("stopped", name)
        child.send_signal(signal.SIGSTOP)
        threading.Event().wait(seconds)
        self.recorder.fault("continued", name)
        child.send_signal(signal.SIGCONT)

    def end(self, role: str, limit_s: float = 60.0) -> None:
        """Ask politely. Raises if one of them does not end well."""
        for name in self.named(role):
            child = self.alive[name]
            if role == "worker":
                child.terminate()
            code = child.wait(limit_s)
            del self.alive[name]
            if code:
                words = (self.place.folder / f"{name}.log").read_text()
                raise AssertionError(f"{name} ended with {code}: {words[-2_000:]}")

    def kill_all(self) -> None:
        for name in list(self.alive):
            self.kill(name)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def crowd(place: Place, server: Server | None) -> Iterator[Crowd]:
    recorder = Recorder(place.history("nemesis"), "nemesis")
    people = Crowd(place, recorder, server)
    try:
        yield people
    finally:
        people.kill_all()
        recorder.close()


def rage(people: Crowd, kills: int, chance: random.Random) -> None:
    """So many kills, each victim replaced, and stops between them."""
    tick = threading.Event()
    people.any_at_work("producer", chance)
    while kills:
        tick.wait(chance.uniform(0.1, 0.6))
        if people.server is not None and chance.random() < 0.3:
            harm(people.server, people.recorder, chance, chance.uniform(0, 1) * LEASE_MS / 1000)
            continue
        dice = chance.random()
        if 0.1 <= dice < 0.3:
            people.stop_for(people.any_at_work("worker", chance), chance.uniform(0.5, 3) * LEASE_MS / 1000)
            continue
        role = "producer" if dice < 0.1 else "worker"
        people.kill(people.any_at_work(role, chance))
        people.start(role)
        kills -= 1


async def drained(backend: BackendAdapter) -> bool:
    """Wait until no live job is left."""
    tick = asyncio.get_running_loop()
    end = tick.time() + DRAIN_S
    while tick.time() < end:
        (info,), _ = await backend.queues(QUEUE, None, 1)
        if not any(info.counts.get(status, 0) for status in LIVE):
            return True
        await pause_ms(200)
    return False


async def final_jobs(backend: BackendAdapter) -> dict[str, str]:
    jobs: dict[str, str] = {}
    cursor: str | None = None
    while True:
        page = await backend.list_jobs(Filter(), cursor, 500)
        jobs.update({view.job.id: view.status for view in page.jobs})
        cursor = page.cursor
        if cursor is None:
            return jobs


async def broken(backend: BackendAdapter) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    while True:
        words, cursor = await backend.check(cursor, 500)
        found += words
        if cursor is None:
            return found


def final_jobs_at(place: Place, *, is_drained_first: bool = False) -> dict[str, str]:
    """What is left. Raises AssertionError if the store is not whole, or does not get drained."""

    async def look() -> dict[str, str]:
        backend = store_at(place.store).adapter
        await backend.connect()
        try:
            is_drained = not is_drained_first or await drained(backend)
            words, jobs = await broken(backend), await final_jobs(backend)
        finally:
            await backend.disconnect()
        assert words == [], words
        left = {job_id: status for job_id, status in jobs.items() if status in LIVE}
        assert is_drained, f"{len(left)} jobs are left after {DRAIN_S} s: {dict(list(left.items())[:10])}"
        return jobs

    return asyncio.run(look())


def storm(
    place: Place, *, kills: int, seed: int, workers: int = 4, producers: int = 2, server: Server | None = None
) -> Report:
    """One storm from the first job to the last. Raises AssertionError if the store is not whole or not drained."""

    async def prepare() -> None:
        backend = store_at(place.store).adapter
        await backend.connect()
        # Everything is kept: what is gone in the end was lost.
        limits = Limits(queue=QUEUE, retain_ended=None, retain_dead=None)
        await backend.put_limits(Op("storm", 0, 1), (limits,))
        await backend.disconnect()

    asyncio.run(prepare())
    with crowd(place, server) as people:
        for role, count in (("worker", workers), ("producer", producers)):
            for _ in range(count):
                people.start(role)
        rage(people, kills, random.Random(seed))
        people.any_at_work("producer", random.Random(seed))
        place.stop.touch()
        people.end("producer")
        jobs = final_jobs_at(place, is_drained_first=True)
        people.end("worker")
    return check_history(place.folder.glob("*.jsonl"), jobs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--store", default="sqlite")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--role", choices=["worker", "producer"])
    parser.add_argument("--name", default="")
    options = parser.parse_args()
    if options.role:
        role = work if options.role == "worker" else produce
        asyncio.run(role(Place(options.folder, options.store), options.name))
        return 0
    folder = options.folder or Path(tempfile.mkdtemp(prefix="psyqueue-storm-"))
    print(f"seed {options.seed}, files in {folder}", flush=True)
    place, server = Place(folder, "" if options.store == "sqlite" else options.store), server_named(options.store)
    if server is not None:
        place = Place(folder, place_on(server.url, "storm"))
    try:
        report = storm(place, kills=options.kills, seed=options.seed, workers=options.workers, server=server)
    finally:
        if server is not None:
            server.stop()
    print(report)
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
