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
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from crash.harms import harm, server_named
from crash.nursery import Child, Nursery
from crash.roles import FORGOTTEN, LEASE_MS, QUEUE, Place, pause_ms
from psyqueue.backend import BackendAdapter, Filter, Limits, Op
from psyqueue.testing.history import Recorder, Report, check_history, read_events
from psyqueue.testing.history.calls import History
from support.servers import Server
from support.store_at import place_on, store_at
from support.waiting import wait_until

LIVE = ("waiting", "scheduled", "pending", "active")
DRAIN_S = 120.0
START_S = 60.0


# ── nemesis ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass
class Crowd:
    """The processes of a storm."""

    place: Place
    recorder: Recorder
    nursery: Nursery
    server: Server | None = None
    alive: dict[str, Child] = field(default_factory=dict)
    born: int = 0

    def start(self, kind: str) -> str:
        """`kind`: a role, with what its name says of it around it."""
        self.born += 1
        name = f"{kind}-{self.born}"
        role = kind.removeprefix(FORGOTTEN).split("-")[0]
        what = ["--role", role, "--name", name, "--folder", str(self.place.folder), "--store", self.place.store]
        what += ["--new", self.place.new]
        self.alive[name] = self.nursery.bear(what, self.place.folder / f"{name}.log")
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
        # Always one draw, however many there are by now: what comes after it follows from the seed.
        return at_work[int(chance.random() * len(at_work))]

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
            if not role.endswith("producer"):
                # Who was born a moment ago listens to no signal before its history is there.
                assert wait_until(self.place.history(name).exists, limit_s=START_S), f"{name} has not begun"
                child.send_signal(signal.SIGTERM)
            code = child.wait(limit_s)
            del self.alive[name]
            if code:
                raise AssertionError(f"{name} ended with {code}: {self.words_of(name)}")

    def words_of(self, name: str) -> str:
        return (self.place.folder / f"{name}.log").read_text()[-2_000:]

    def kill_all(self) -> None:
        for name in list(self.alive):
            self.kill(name)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def crowd(place: Place, server: Server | None) -> Iterator[Crowd]:
    recorder = Recorder(place.history("nemesis"), "nemesis")
    with Nursery("crash.roles") as nursery:
        people = Crowd(place, recorder, nursery, server)
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


def one_to_miss(place: Place, jobs: dict[str, str]) -> str:
    """A job that ended and whose enqueue was acknowledged: were it gone, the checker has to notice."""
    created = History(read_events(place.folder.glob("*.jsonl"))).created
    return next(job_id for job_id, status in jobs.items() if status == "completed" and job_id in created)


def prepare(place: Place) -> None:
    """Everything is kept: what is gone in the end was lost."""

    async def put() -> None:
        backend = store_at(place.store).adapter
        await backend.connect()
        limits = Limits(queue=QUEUE, retain_ended=None, retain_dead=None)
        await backend.put_limits(Op("storm", 0, 1), (limits,))
        await backend.disconnect()

    asyncio.run(put())


def storm(
    place: Place, *, kills: int, seed: int, workers: int = 4, producers: int = 2, server: Server | None = None
) -> Report:
    """One storm from the first job to the last. Raises AssertionError if the store is not whole or not drained."""
    prepare(place)
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
    options = parser.parse_args()
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
