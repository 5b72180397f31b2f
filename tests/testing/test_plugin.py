"""The pytest plugin, in runs of pytest of their own, as a user's project has it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

APPLICATION = """
from psyqueue import PsyQueue
from psyqueue.backends import redis

q = PsyQueue().use(redis(host="nowhere.invalid"))

@q.handle("double")
async def double(number: int) -> int:
    return 2 * number
"""

TESTS = """
import pytest
from application import double, q

async def check(testing):
    async with testing(q) as t:
        job = await double.enqueue(2)
        assert await t.drain() == 1
        assert t.job(job).result == 4

@pytest.mark.asyncio
async def test_under_pytest_asyncio(psyqueue_testing):
    await check(psyqueue_testing)

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_under_anyio(psyqueue_testing, anyio_backend):
    await check(psyqueue_testing)

@pytest.fixture
async def t():
    async with q.testing(mode="inline") as t:
        yield t

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_under_anyio_with_a_fixture_of_ones_own(t, anyio_backend):
    assert t.job(await double.enqueue(3)).result == 6

@pytest.mark.psyqueue(mode="inline", raise_errors=False)
class TestMarks:
    @pytest.mark.asyncio
    async def test_mark_of_the_class_counts(self, psyqueue_testing):
        async with psyqueue_testing(q) as t:
            assert t.job(await double.enqueue(1)).status == "completed"

    @pytest.mark.asyncio
    @pytest.mark.psyqueue(mode="manual")
    async def test_closest_mark_wins(self, psyqueue_testing):
        async with psyqueue_testing(q) as t:
            assert t.job(await double.enqueue(1)).status == "pending"

    @pytest.mark.asyncio
    async def test_option_of_the_call_wins(self, psyqueue_testing):
        async with psyqueue_testing(q, mode="manual") as t:
            assert t.job(await double.enqueue(1)).status == "pending"
"""

SYNC_TESTS = """
import pytest
from application import double, q

def test_plain(psyqueue_sync_testing):
    with psyqueue_sync_testing(q) as t:
        job = double.sync.enqueue(2)
        assert t.drain() == 1
        assert t.job(job).result == 4

@pytest.mark.psyqueue(mode="inline")
def test_mark_counts(psyqueue_sync_testing):
    with psyqueue_sync_testing(q) as t:
        assert t.job(double.sync.enqueue(1)).status == "completed"
    with psyqueue_sync_testing(q, mode="manual") as t:
        assert t.job(double.sync.enqueue(1)).status == "pending"

@pytest.fixture
def t():
    with q.sync.testing() as t:
        yield t

def test_with_a_fixture_of_ones_own(t):
    double.sync.enqueue(3)
    assert t.drain() == 1
"""

FAILING = """
import pytest
from application import double, q

def test_fails_without_asyncio(psyqueue_sync_testing):
    with psyqueue_sync_testing(q) as t:
        double.sync.enqueue(4)
        t.assert_enqueued("double", payload={"number": 5})

@pytest.mark.asyncio
async def test_fails(psyqueue_testing):
    async with psyqueue_testing(q) as t:
        await double.enqueue(2)
        await t.drain()
        t.assert_enqueued("double", payload={"number": 3})

def test_fails_without_jobs(psyqueue_testing):
    assert False

def test_passes(psyqueue_testing):
    pass
"""


def run(folder: Path, tests: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "application.py").write_text(APPLICATION, encoding="utf-8")
    (folder / "test_application.py").write_text(tests, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:valkey", "-p", "no:cacheprovider", "-W", "error"]
    return subprocess.run(
        [*command, "--strict-markers", "-o", "asyncio_default_fixture_loop_scope=function", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_fixture_and_marks_work_under_pytest_asyncio_and_anyio(tmp_path, mode):
    own_fixture = "with_a_fixture_of_ones_own"
    # In its own strict mode pytest-asyncio leaves such fixtures to anyio; in auto mode it takes them all.
    chosen = ["-k", f"not {own_fixture}"] if mode == "auto" else []
    done = run(tmp_path, TESTS, "-o", f"asyncio_mode={mode}", *chosen)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"{5 if chosen else 6} passed" in done.stdout


def test_failure_tells_the_history_of_the_jobs(tmp_path):
    done = run(tmp_path, FAILING)
    assert "3 failed, 1 passed" in done.stdout
    assert "payload.number is 4, not 5" in done.stdout
    assert "payload.number is 2, not 3" in done.stdout
    told = done.stdout.partition("psyqueue history")[2]
    happened = re.findall(r"^\+0:00:00 (\w+) 'double'", told, re.MULTILINE)
    assert happened == ["enqueued", "enqueued", "started", "completed"]
    assert done.stdout.count("psyqueue history") == 2
    # The frame of the assertion helper is not shown.
    assert "matching.py" not in done.stdout
    assert "kit.py" not in done.stdout


def test_fixture_for_tests_without_asyncio(tmp_path):
    done = run(tmp_path, SYNC_TESTS)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "3 passed" in done.stdout


def test_mark_describes_itself(tmp_path):
    assert "@pytest.mark.psyqueue(**options): options of q.testing()" in run(tmp_path, TESTS, "--markers").stdout


def test_plugin_loads_nothing_of_psyqueue_until_it_is_asked_for(tmp_path):
    tests = "import sys\ndef test_nothing(): assert not [m for m in sys.modules if m.split('.')[0] == 'psyqueue']\n"
    done = run(tmp_path, tests)
    assert done.returncode == 0, done.stdout
