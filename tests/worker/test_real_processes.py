"""What only real processes can show: kills, stops and signals, on a store that outlives them.

On servers what the store has its part in: losses, leases, stops. Children, and the way a program is started, are shown
on SQLite alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from support.store_at import store_at
from support.waiting import is_process_alive, wait_until
from worker.rig import Rig, soon, started

LIMIT_S = 40.0
TESTS = Path(__file__).parents[1]

pytestmark = pytest.mark.timeout(180)
on_each = pytest.mark.parametrize("store", ["sqlite", "redis", "postgres"], indirect=True)
on_sqlite = pytest.mark.parametrize("store", ["sqlite"], indirect=True)


class Program:
    """tests/worker/program.py, running."""

    def __init__(self, place: str, folder: Path, name: str, *options: str, as_module: bool) -> None:
        self.name = name
        self.folder = folder
        how = ["-m", "worker.program"] if as_module else [str(TESTS / "worker" / "program.py")]
        path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "WORKER_FOLDER": str(folder)}
        command = [sys.executable, *how, place, name, *options]
        self.process = subprocess.Popen(command, env=environment, cwd=folder, start_new_session=True)

    def said(self, what: str) -> str:
        """The text of a file that a handler writes, once it is there."""
        path = self.folder / what
        assert wait_until(path.exists, limit_s=LIMIT_S), what
        return path.read_text()

    def kill(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        return self.process.wait(LIMIT_S)


@pytest.fixture
def program(place: str, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    running: list[Program] = []

    def run(name: str, *options: str, as_module: bool = False) -> Program:
        running.append(Program(place, tmp_path, name, *options, as_module=as_module))
        return running[-1]

    yield run
    for each in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.wait(LIMIT_S)


@pytest.fixture
async def rig(place: str) -> AsyncIterator[Rig]:
    """The client's side."""
    async with started(Rig(store_at(place))) as made:
        yield made


async def said(by: Program, what: str) -> str:
    return await asyncio.to_thread(by.said, what)


async def ended(program: Program) -> int:
    return await asyncio.to_thread(program.end)


def go(program: Program, n: int) -> None:
    (program.folder / f"go-{n}").write_text("")


async def stop_between_writes(rig: Rig, program: Program) -> None:
    """Who is stopped in the middle of a write keeps an SQLite file to itself, and nobody takes its jobs back."""
    while True:
        program.kill(signal.SIGSTOP)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await rig.q.resume("nobody")
            return
        program.kill(signal.SIGCONT)


@on_each
async def test_jobs_of_a_killed_worker_run_again_elsewhere_and_count_the_loss(rig, program):
    job = await rig.q.enqueue("wait", {"n": 1}, queue="q")
    first = program("first")
    await said(first, "began-1-1")
    second = program("second")
    await said(second, "started-second")
    first.kill(signal.SIGKILL)
    await said(second, "began-1-2")
    go(second, 1)
    assert await job.result(LIMIT_S) == "fence 2"
    view = await rig.view(job)
    assert (view.attempt, view.lost, [error["type"] for error in view.errors]) == (2, 1, ["WorkerLost"])


@on_each
@pytest.mark.parametrize(
    ("when", "fences", "lost"),
    [("after-fetch", [2], 1), ("before-ack", [1, 2], 1), ("after-ack", [1], 0)],
)
async def test_worker_that_dies_around_a_call_repeats_only_what_was_not_acknowledged(rig, program, when, fences, lost):
    job = await rig.q.enqueue("quick", queue="q")
    assert await ended(program("first", "--die", when)) == -signal.SIGKILL
    last = program("last")
    await said(last, "started-last")
    assert await job.result(LIMIT_S) == fences[-1]
    view = await rig.view(job)
    assert (view.attempt, view.lost) == (1 + lost, lost)
    assert sorted(path.name for path in last.folder.glob("quick-*")) == [f"quick-{fence}" for fence in fences]


@on_sqlite
async def test_children_die_with_their_worker_when_it_is_killed(rig, program):
    await rig.q.enqueue("child", {"n": 1}, queue="q")
    first = program("first")
    pid = int(await said(first, "child-1-1"))
    assert is_process_alive(pid)
    first.kill(signal.SIGKILL)
    assert await asyncio.to_thread(wait_until, lambda: not is_process_alive(pid), limit_s=LIMIT_S)


@on_each
async def test_worker_that_was_stopped_for_longer_than_its_lease_does_not_settle_what_another_ran(rig, program):
    job = await rig.q.enqueue("wait", {"n": 1}, queue="q")
    first = program("first")
    await said(first, "began-1-1")
    second = program("second")
    await said(second, "started-second")
    await stop_between_writes(rig, first)
    await said(second, "began-1-2")
    go(second, 1)
    assert await job.result(LIMIT_S) == "fence 2"
    first.kill(signal.SIGCONT)
    second.kill(signal.SIGTERM)
    assert await ended(second) == 0
    # It finds its session closed, drops what it had, and goes on.
    later = await rig.q.enqueue("wait", {"n": 2}, queue="q")
    await said(first, "began-2-1")
    go(first, 2)
    assert await later.result(LIMIT_S) == "fence 1"
    view = await rig.view(job)
    assert (view.status, view.result) == ("completed", "fence 2")


@on_each
async def test_worker_that_was_stopped_for_less_than_its_lease_loses_nothing(rig, program):
    job = await rig.q.enqueue("wait", {"n": 1}, queue="q")
    first = program("first", "--lease", "60000")
    await said(first, "began-1-1")
    first.kill(signal.SIGSTOP)
    go(first, 1)
    with pytest.raises(TimeoutError):
        await job.result(0.5)
    first.kill(signal.SIGCONT)
    assert await job.result(LIMIT_S) == "fence 1"
    assert (await rig.view(job)).lost == 0


@on_sqlite
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signals_to_the_whole_service_let_running_children_finish(rig, program, number):
    """Ctrl-C in a terminal and the stop of a service reach every process of the group; the worker decides."""
    job = await rig.q.enqueue("child", {"n": 1}, queue="q")
    first = program("first")
    pid = int(await said(first, "child-1-1"))
    for _ in range(3):
        os.kill(pid, number)
    first.kill(number)
    with pytest.raises(TimeoutError):
        await job.result(0.5)
    assert is_process_alive(pid)
    go(first, 1)
    assert await job.result(LIMIT_S) == pid
    assert await ended(first) == 0


@on_sqlite
@pytest.mark.parametrize("as_module", [False, True])
async def test_process_handlers_of_the_main_module_are_found(rig, program, as_module):
    """Started as a script and as `python -m`; its `__main__` part does not run again in the child."""
    job = await rig.q.enqueue("child", {"n": 1}, queue="q")
    first = program("first", as_module=as_module)
    pid = int(await said(first, "child-1-1"))
    go(first, 1)
    assert await job.result(LIMIT_S) == pid
    first.kill(signal.SIGTERM)
    assert await ended(first) == 0


UNGUARDED = """
import asyncio
from psyqueue import PsyQueue
from psyqueue.backends import sqlite

q = PsyQueue().use(sqlite(path="jobs.db"))

@q.handle("double", mode="process", max_retries=0)
def double(n: int) -> int:
    return 2 * n

async def main():
    async with q:
        job = await double.enqueue(2)
        q.start_worker()
        print((await job.wait()).errors[-1]["message"], len(await q.jobs()))

asyncio.run(main())
"""


def test_script_that_runs_as_it_is_imported_does_not_run_in_its_children(tmp_path):
    """Each child would enqueue the job again and start a worker with children of its own."""
    (tmp_path / "script.py").write_text(UNGUARDED)
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    message, number = ran.stdout.strip().rsplit(" ", 1)
    assert 'if __name__ == "__main__":' in message
    assert number == "1"


@on_sqlite
async def test_thread_that_never_ends_does_not_keep_the_process(rig, program):
    job = await rig.q.enqueue("block", queue="q", timeout=0.2, max_retries=0)
    first = program("first")
    await said(first, "blocked")
    assert await rig.ended(job) == ["dead"]
    first.kill(signal.SIGTERM)
    assert await ended(first) == 0


@on_each
async def test_interrupt_of_a_program_without_care_hands_its_jobs_back_unharmed(rig, program):
    """asyncio.run cancels every task of the process at its end."""
    jobs = [await rig.q.enqueue("wait", {"n": n}, queue="q", max_retries=0) for n in range(2)]
    first = program("first", "--unguarded")
    for n in range(2):
        await said(first, f"began-{n}-1")
    first.kill(signal.SIGINT)
    assert await ended(first) != 0
    assert [((await rig.view(job)).status, (await rig.view(job)).attempt) for job in jobs] == [("pending", 0)] * 2
    assert await rig.open_sessions() == []


@on_sqlite
@pytest.mark.slow  # the store's back-off after the second loss: 20 s
async def test_job_that_kills_every_worker_is_dead_after_three_of_them(rig, program):
    job = await rig.q.enqueue("crash", queue="q")
    for n in range(3):
        each = program(f"w{n}")
        if n:
            await said(each, f"started-w{n}")
        assert await ended(each) == 9
    last = program("last")
    assert await soon(rig.ended(job), 120) == ["dead"]
    view = await rig.view(job)
    assert (view.reason, view.lost, len(view.errors)) == ("lost", 3, 3)
    last.kill(signal.SIGTERM)
    assert await ended(last) == 0
