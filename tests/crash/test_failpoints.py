"""A process may be killed at any border of any commit: nothing acknowledged is lost, nothing is half done.

Method: a child goes through `scenario` and is killed (or a StoreUnavailable is raised) when it reaches a failpoint for
the nth time, for every n until it gets through. What it left behind has to be the state of the in-memory model after
the steps that were acknowledged, or after those and the one that was under way. Then somebody else repeats that step
with the same op, and goes on to the end, where the states have to be the same again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crash.scenario import NAMES, Log, do
from crash.survivors import dump
from model.sides import differences
from psyqueue.backend import BackendAdapter
from psyqueue.backends._sqlite import SqliteBackend, SqliteOptions
from psyqueue.errors import StoreBusy
from support.source import TESTS
from support.waiting import wait_until

BORDERS = ("sqlite.begin.before", "sqlite.begin.after", "sqlite.commit.before", "sqlite.commit.after")
OTHERS = ("sqlite.renew.before", "sqlite.renew.after", "sqlite.migrate.before", "sqlite.migrate.commit")
RUNS_MAX = 100

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


async def opened(folder: Path, **options: Any) -> BackendAdapter:
    backend = SqliteBackend(SqliteOptions(path=folder / "jobs.db", test_clock=True, **options))
    await backend.connect()
    return backend


async def survive(folder: Path, expected: list[dict[str, Any]]) -> int:
    """Look at what is left, and go on to the end; how many steps had been acknowledged."""
    done, tokens = Log.read(folder / "log")
    backend = await opened(folder)
    try:
        left = await dump(backend)
        possible = expected[done : done + 2]
        assert left in possible, (NAMES[done : done + 1], differences(possible[0], left))
        for number in range(done, len(NAMES)):
            await do(backend, number, tokens)
            found = await dump(backend)
            assert found == expected[number + 1], (NAMES[number], differences(expected[number + 1], found))
    finally:
        await backend.disconnect()
    return done


@pytest.mark.parametrize("name", [*BORDERS, *OTHERS])
def test_a_kill_at_any_border_loses_nothing_and_halves_nothing(name, tmp_path, tell, expected):
    reached: set[int] = set()
    for nth in range(1, RUNS_MAX):
        folder = tmp_path / f"{nth}"
        folder.mkdir()
        code = tell(str(folder / "jobs.db"), folder / "log", f"{name}:kill:{nth}")
        assert code in {0, -signal.SIGKILL}
        reached.add(asyncio.run(survive(folder, expected)))
        if code == 0:
            break
    else:
        raise AssertionError(f"{name} is reached more than {RUNS_MAX} times")
    assert nth > 1, f"{name} was never reached"
    if name in BORDERS:
        # Every step but those that only read, or move the clock of a test, has a border of its own.
        assert len(reached) >= len(NAMES) - 3, sorted(set(range(len(NAMES))) - reached)


@pytest.mark.parametrize("name", BORDERS)
def test_a_step_of_unknown_outcome_can_be_repeated(name, tmp_path, tell, expected):
    """The reply is lost, before or after the commit: the same op again brings the same end."""
    for nth in range(1, len(NAMES) + 8, 2):
        folder = tmp_path / f"{nth}"
        folder.mkdir()
        assert tell(str(folder / "jobs.db"), folder / "log", f"{name}:raise:{nth}", is_repeating=True) == 0
        assert asyncio.run(survive(folder, expected)) == len(NAMES)


def hanging(folder: Path) -> subprocess.Popen[bytes]:
    """A process that goes through the story and stops before its third commit."""
    plan = {"PSYQUEUE_TEST": "1", "PSYQUEUE_FAILPOINT": "sqlite.commit.before:hang:3"}
    argv = [sys.executable, "-m", "crash.scenario", str(folder / "jobs.db"), str(folder / "log")]
    return subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(TESTS), **plan}, cwd=TESTS)


def test_a_process_that_hangs_in_a_transaction_stops_the_others_until_it_is_gone(tmp_path, expected):
    """They are told `StoreBusy` in time, and nothing of theirs was done."""

    async def beside_it() -> int:
        backend = await opened(tmp_path, busy_timeout=0.2)
        try:
            with hanging(tmp_path) as child:
                try:
                    assert await asyncio.to_thread(wait_until, lambda: Log.begun(tmp_path / "log") == 3)
                    done, tokens = Log.read(tmp_path / "log")
                    with pytest.raises(StoreBusy):
                        await do(backend, done, tokens)
                finally:
                    child.kill()
        finally:
            await backend.disconnect()
        return done

    done = asyncio.run(beside_it())
    assert asyncio.run(survive(tmp_path, expected)) == done
