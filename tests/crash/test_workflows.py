"""Workflows end, in order, done or undone, while the workers that run them are killed, and the server is."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crash.nursery import Nursery
from crash.workflow_workers import AFTER, QUEUE, is_bad, order
from psyqueue import PsyQueue
from psyqueue.plugins import Workflows, WorkflowView
from support.servers import Server
from support.store_at import place_on, store_at
from support.waiting import wait_until

if TYPE_CHECKING:
    from conftest import OwnServers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WORKERS = 3
HARMS = 8
NUMBERS = range(60)
SEED = 20_261_127


async def begun(place: str) -> None:
    workflows = Workflows()
    q = PsyQueue().use(store_at(place)).use(workflows)
    undo = q.handle("undo", lambda step, number: None, queue=QUEUE)
    async with q:
        for number in NUMBERS:
            await workflows.enqueue(order(number, undo), id=f"order-{number}")


async def views(place: str) -> list[WorkflowView]:
    workflows = Workflows()
    async with PsyQueue().use(store_at(place)).use(workflows):
        found = [await workflows.get(f"order-{number}") for number in NUMBERS]
    return [view for view in found if view is not None]


def has_ended(view: WorkflowView) -> bool:
    jobs = (*view.steps.values(), *view.undoing.values())
    return view.status != "running" and all(job is not None and job.completed_at is not None for job in jobs)


def rage(nursery: Nursery, arguments: list[str], log: Path, server: Server | None) -> None:
    """Kills, each victim replaced; ends of the server."""
    chance, tick = random.Random(SEED), threading.Event()
    workers = [nursery.bear(arguments, log) for _ in range(WORKERS)]
    for number in range(HARMS):
        tick.wait(chance.uniform(0.2, 0.8))
        if number % 3 == 2 and server is not None:
            assert server.process is not None
            server.process.send_signal(signal.SIGKILL)
            server.process.wait(10)
            server.restart()
        else:
            victim = chance.randrange(WORKERS)
            workers[victim].kill()
            workers[victim].wait()
            workers[victim] = nursery.bear(arguments, log)
    place = arguments[0]
    assert wait_until(lambda: all(map(has_ended, asyncio.run(views(place)))), limit_s=120), log.read_text()[-2_000:]
    for each in workers:
        each.kill()
        each.wait()


def check(view: WorkflowView, words: list[tuple[str, str]]) -> None:
    """`words`: what the handlers of this workflow wrote down, in order of time; a run may have been repeated."""
    number = int(view.id.removeprefix("order-"))
    status = {name: job.status for name, job in view.steps.items() if job is not None}
    undone = {name: job.status for name, job in view.undoing.items() if job is not None}
    first = {word: words.index(word) for word in words}
    for step, parents in AFTER.items():
        if ("did", step) in first:
            assert all(first["did", parent] < first["did", step] for parent in parents), words
    # A job that lost its worker more than twice is dead, too: then its workflow fails, and is undone.
    assert (view.status == "completed") == (set(status.values()) == {"completed"}), (view, words)
    assert view.status == "compensated" or not is_bad("charge", number), (view, words)
    if view.status == "completed":
        assert set(undone.values()) == {"cancelled"}
        assert not [word for word in words if word[0] == "undid"], words
        return
    for step in AFTER:
        assert (undone[step] != "cancelled") == (status[step] == "completed"), (view, words)
    for step, parents in AFTER.items():
        for parent in parents:
            if ("undid", step) in first and ("undid", parent) in first:
                assert first["undid", step] < first["undid", parent], words


@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgres"])
def test_workflows_end_in_order_while_everybody_is_killed(kind: str, tmp_path: Path, own_servers: OwnServers):
    server = None if kind == "sqlite" else getattr(own_servers, kind)(durable=True)
    place = str(tmp_path / "jobs.db") if server is None else place_on(server.url, "workflows")
    words = tmp_path / "words"
    words.touch()
    asyncio.run(begun(place))
    with Nursery("crash.workflow_workers") as nursery:
        rage(nursery, [place, str(words)], tmp_path / "log", server)
    lines = [line.split() for line in words.read_text().splitlines()]
    found = asyncio.run(views(place))
    assert len(found) == len(NUMBERS)
    for view in found:
        check(view, [(verb, step) for verb, number, step in lines if f"order-{number}" == view.id])
    assert {view.status for view in found} == {"completed", "compensated"}
