"""Each instant of a schedule makes one job while the processes that make them are killed, and the server is."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crash.nursery import Child, Nursery
from crash.schedule_makers import QUEUE, TIMINGS
from psyqueue import PsyQueue
from support.servers import Server
from support.store_at import place_on, store_at
from support.waiting import wait_until

if TYPE_CHECKING:
    from conftest import OwnServers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MAKERS = 3
HARMS = 8
SEED = 20_261_127


async def instants(place: str) -> dict[str, Counter[int]]:
    """Per schedule the seconds that have jobs, with how many."""
    found: dict[str, set[tuple[int, str]]] = {}
    async with PsyQueue().use(store_at(place)) as q:
        cursor: str | None = None
        while True:
            page = await q.jobs(queue=QUEUE, limit=500, cursor=cursor)
            for job in page.items:
                assert job.schedule_id is not None
                assert job.nominal_at is not None
                found.setdefault(job.schedule_id, set()).add((int(job.nominal_at.timestamp()), job.id))
            if (cursor := page.cursor) is None:
                return {each: Counter(second for second, _ in jobs) for each, jobs in found.items()}


def made(place: str, schedule_id: str) -> int:
    return sum(asyncio.run(instants(place)).get(schedule_id, Counter()).values())


def end(makers: Sequence[Child]) -> None:
    for each in makers:
        each.kill()
        each.wait()


def rage(nursery: Nursery, place: str, words: Path, server: Server | None) -> None:
    """Kills, each victim replaced; stops of some seconds; ends of the server."""
    chance, tick = random.Random(SEED), threading.Event()
    makers = [nursery.bear([place], words) for _ in range(MAKERS)]
    assert wait_until(lambda: made(place, "all steps") > 1, limit_s=60), words.read_text()[-2_000:]
    for number in range(HARMS):
        tick.wait(chance.uniform(0.3, 1.5))
        victim = chance.randrange(MAKERS)
        if number % 4 == 1:
            makers[victim].send_signal(signal.SIGSTOP)
            tick.wait(chance.uniform(1, 3))
            makers[victim].send_signal(signal.SIGCONT)
        elif number % 4 == 3 and server is not None:
            assert server.process is not None
            server.process.kill()
            server.process.wait(10)
            server.restart()
        else:
            end(makers[victim : victim + 1])
            makers[victim] = nursery.bear([place], words)
    end(makers)
    tick.wait(3)  # nobody is there for some instants
    makers = [nursery.bear([place], words) for _ in range(MAKERS)]
    before = made(place, "all expression")
    assert wait_until(lambda: made(place, "all expression") > before + 2, limit_s=60), words.read_text()[-2_000:]
    end(makers)


@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgres"])
def test_each_instant_has_one_job_and_none_is_missing_while_everybody_is_killed(
    kind: str, tmp_path: Path, own_servers: OwnServers
):
    server = None if kind == "sqlite" else getattr(own_servers, kind)(durable=True)
    place = str(tmp_path / "jobs.db") if server is None else place_on(server.url, "schedules")
    with Nursery("crash.schedule_makers") as nursery:
        rage(nursery, place, tmp_path / "words.log", server)
    found = asyncio.run(instants(place))
    assert found.keys() == {f"{missed} {name}" for missed in ("all", "latest") for name in TIMINGS}
    assert [each for each, seconds in found.items() if set(seconds.values()) != {1}] == []
    for name in TIMINGS:
        seconds = sorted(found[f"all {name}"])
        assert seconds == list(range(seconds[0], seconds[-1] + 1))
        assert len(seconds) >= len(found[f"latest {name}"])
