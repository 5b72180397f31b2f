"""A move without a pause while everybody who takes part in it is killed at random; the history has the last word.

    cd tests; python -m crash.moving_storm --old sqlite --new redis --kills 100 --harms 30 --seed 7

Producers and workers use `moving(old, new)`, one of each only knows the old store. `psyqueue migrate run`, `finish` and
at times `rollback` are started again whenever they were killed, until the move is over. `--harms`: while one of them is
at work, the server of either store dies and comes back, or throws its clients out; around a file everybody dies at
once; with `--away 30`, the server is gone for so many seconds. Somebody looks all the time at what could be started
where. In the end both stores are read: what was taken in has ended in one of them. With neither kills nor harms it
tells what producers and workers see of a move without trouble.
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
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from crash.harms import harm, server_named, take_away
from crash.pauses import Pauses, pauses_in
from crash.roles import FORGOTTEN, LEASE_MS, STEPS, Place
from crash.storm import LIVE, START_S, Crowd, crowd, final_jobs_at, prepare
from psyqueue.testing.history import Report, check_history, read_events
from support.servers import Server
from support.store_at import place_on, store_at
from support.waiting import wait_until

Servers: TypeAlias = tuple[Server | None, Server | None]
STORES = ("old", "new")
MOVES_S = 300.0
"""However often it is killed, a move comes to its end."""
MANY = 60
"""Jobs that either store gives out, however slow the machine is."""


@dataclass
class Move:
    """The commands of a move, one after the other; `step` is "" when it is over.

    `kills`, `harms`: left for each command. `servers`: of the two stores, None for a file. `away_s`: a harm is that the
    server is gone for so long.
    """

    people: Crowd
    chance: random.Random
    kills: dict[str, int]
    harms: dict[str, int]
    returns: int
    servers: Servers = (None, None)
    away_s: float | None = None
    step: str = "run"
    name: str = ""

    def go_on(self) -> None:
        """Start what is to be done next, unless it is being done."""
        if self.step and not self.name:
            self.name = self.people.start(f"mover-{self.step}")
        elif self.step and (code := self.people.alive[self.name].poll()) is not None:
            del self.people.alive[self.name]
            self.step = self._after(code)
            self.name = ""

    def kill(self) -> None:
        """When it has begun; it goes on as before, or goes back."""
        self.people.any_at_work(self.name, self.chance)
        threading.Event().wait(self.chance.uniform(0, 0.3))
        self.people.kill(self.name)
        self.name = ""
        self.kills[self.step] -= 1
        if self.step in ("run", "finish"):
            self.step = self._or_back(self.step)

    def harm(self) -> None:
        """One of the two stores, when the command has begun."""
        self.people.any_at_work(self.name, self.chance)
        threading.Event().wait(self.chance.uniform(0, 0.3))
        self.harms[self.step] -= 1
        server = self.chance.choice(self.servers)
        if server is not None and self.away_s is not None:
            take_away(server, self.people.recorder, signal.SIGKILL, self.away_s)
            return
        if server is not None:
            harm(server, self.people.recorder, self.chance, self.chance.uniform(0, 1) * LEASE_MS / 1000)
            return
        kinds = [name.rpartition("-")[0] for name in self.people.alive if name != self.name]
        self.people.kill_all()
        self.name = ""
        for kind in kinds:
            self.people.start(kind)

    def _or_back(self, step: str) -> str:
        if self.returns and self.chance.random() < 0.3:
            self.returns -= 1
            return "rollback"
        return step

    def _after(self, code: int) -> str:
        words = self.people.words_of(self.name)
        if code == 0:
            return {"run": self._or_back("finish"), "rollback": "run", "finish": ""}[self.step]
        if self.step == "rollback" and code == 1:
            return "run"  # it had not begun, or was done, or it was over
        if self.step == "finish" and "still running" in words:
            return "finish"
        if '"STORE_UNAVAILABLE"' in words and any(self.servers):
            return self.step if self.step == "rollback" else self._or_back(self.step)
        raise AssertionError(f"{self.name} ended with {code}: {words}")


def rage(people: Crowd, move: Move, kills: int) -> None:
    """So many kills of others, each victim replaced, and stops between them, until the move is over."""
    chance, tick = move.chance, threading.Event()
    people.any_at_work("producer", chance)
    people.any_at_work("worker", chance)
    _expect_starts(people.place, MANY)
    for _ in _until_over(move):
        tick.wait(chance.uniform(0.05, 0.3))
        dice = chance.random()
        if dice < 0.25:
            if move.name and move.harms[move.step]:
                move.harm()
        elif dice < 0.5:
            if move.name and move.kills[move.step]:
                move.kill()
        elif kills and dice < 0.6:
            people.stop_for(people.any_at_work("worker", chance), chance.uniform(0.5, 1.5) * LEASE_MS / 1000)
        elif kills:
            kills -= 1
            role = "producer" if dice < 0.7 else "worker"
            people.kill(people.any_at_work(role, chance))
            people.start(role)


def _starts(place: Place) -> int:
    return sum(path.read_bytes().count(b'"kind":"start"') for path in place.folder.glob("*worker-*.jsonl"))


def _expect_starts(place: Place, count: int) -> None:
    assert wait_until(lambda: _starts(place) >= count, limit_s=START_S), f"fewer than {count} jobs begun in {START_S} s"


def _expect_refusal(place: Place) -> None:
    """Whoever only knows the old store is told where the jobs are."""

    def is_told() -> bool:
        told = place.folder.glob(f"{FORGOTTEN}producer-*.jsonl")
        return any(b'"NAMESPACE_MOVED"' in path.read_bytes() for path in told)

    assert wait_until(is_told, limit_s=START_S), "nobody heard that the jobs moved"


def _until_over(move: Move) -> Iterator[int]:
    limit_s = MOVES_S + sum(move.harms.values()) * (move.away_s or 0)
    loop_end = threading.Event()
    timer = threading.Timer(limit_s, loop_end.set)
    timer.daemon = True
    timer.start()
    turn = 0
    try:
        while move.step:
            assert not loop_end.is_set(), f"the move is not over after {limit_s} s: it is at {move.step}"
            move.go_on()
            yield (turn := turn + 1)
    finally:
        timer.cancel()


def storm(
    place: Place,
    *,
    kills: int,
    seed: int,
    harms: int = 0,
    servers: Servers = (None, None),
    away_s: float | None = None,
    workers: int = 3,
    producers: int = 2,
) -> tuple[Report, Pauses]:
    """One move from the first job to the last. Raises AssertionError if a store is not whole or not drained."""
    chance = random.Random(seed)
    prepare(place)
    with crowd(place, None) as people:
        people.start("observer")
        for role, count in (("worker", workers), ("producer", producers)):
            people.start(FORGOTTEN + role)
            for _ in range(count):
                people.start(role)
        move = Move(
            people,
            chance,
            kills=dict.fromkeys(STEPS, (kills + 2) // 3),
            harms=dict.fromkeys(STEPS, (harms + 2) // 3),
            returns=min(kills + harms, 1) + (kills + harms) // 20,
            servers=servers,
            away_s=away_s,
        )
        rage(people, move, kills)
        people.any_at_work("producer", chance)
        _expect_refusal(place)
        _expect_starts(place, _starts(place) + MANY)
        place.stop.touch()
        people.end("producer")
        people.end(FORGOTTEN + "producer")
        jobs = final_jobs_of(place, is_drained_first=True)
        for role in ("worker", FORGOTTEN + "worker", "observer"):
            people.end(role)
    files = list(place.folder.glob("*.jsonl"))
    report = check_history(files, jobs, stores=STORES)
    return report, pauses_in(read_events(files))


def final_jobs_of(place: Place, *, is_drained_first: bool = False) -> dict[str, str]:
    """Of the new store, and what had ended in the old one, which is closed."""
    new = final_jobs_at(Place(place.folder, place.new), is_drained_first=is_drained_first)
    old = final_jobs_at(Place(place.folder, place.store))
    assert asyncio.run(modes(place)) == ("moved", "open")
    return {job_id: status for job_id, status in old.items() if status not in LIVE} | new


async def modes(place: Place) -> tuple[str, ...]:
    found = []
    for where in (place.store, place.new):
        backend = store_at(where).adapter
        found.append((await backend.connect()).mode)
        await backend.disconnect()
    return tuple(found)


def place_of(folder: Path, name: str, server: Server | None) -> str:
    """Of one of the two stores: a file, or a namespace on its server."""
    return str(folder / f"{name}.db") if server is None else place_on(server.url, "storm")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old", default="sqlite")
    parser.add_argument("--new", default="redis")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--harms", type=int, default=0)
    parser.add_argument("--away", type=float, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="psyqueue-storm-"))
    print(f"seed {options.seed}, files in {folder}", flush=True)
    with ExitStack() as stack:
        servers = (server_named(options.old), server_named(options.new))
        for server in filter(None, servers):
            stack.callback(server.stop)
        place = Place(folder, *(place_of(folder, name, server) for name, server in zip(STORES, servers, strict=True)))
        faults = {"kills": options.kills, "harms": options.harms, "away_s": options.away}
        report, pauses = storm(place, seed=options.seed, servers=servers, **faults)
    print(report, pauses, sep="\n")
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
