"""docs/production.md, backups: what was saved while the application worked is a store that goes on.

Each story: a job is done, one waits, one is due tomorrow, one runs in a worker that will never say what became of it.
Then a backup is made, the application goes on, and the backup is put in.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
import redis

from psyqueue import JobHandle, PsyQueue
from psyqueue.backend.compose import every_page
from support.servers import Server

if TYPE_CHECKING:
    from conftest import OwnServers

LIMIT_S = 60.0


class Application:
    """Its jobs, by what became of them before the backup."""

    def __init__(self, url: str) -> None:
        self.q = PsyQueue.from_url(url)
        self.ran: list[str] = []
        self.is_stuck = asyncio.Event()
        self.job = self.q.handle("job", self._run, queue="work")

    async def _run(self, what: str) -> str:
        self.ran.append(what)
        if what == "runs" and self.ran.count(what) == 1:
            self.is_stuck.set()
            await asyncio.Event().wait()
        return what

    async def live(self) -> dict[str, JobHandle[str]]:
        """Until the moment of the backup."""
        jobs = {what: await self.job.enqueue(what) for what in ("done", "runs", "waits")}
        jobs["tomorrow"] = await self.job.options(delay="1d").enqueue("tomorrow")
        self.q.start_worker("work", concurrency=1, prefetch=0, lease="1s")
        async with asyncio.timeout(LIMIT_S):
            await self.is_stuck.wait()
        return jobs

    async def go_on(self) -> JobHandle[str]:
        """What the backup knows nothing of."""
        return await self.job.enqueue("later")


async def goes_on(url: str, jobs: dict[str, JobHandle[str]], later: JobHandle[str]) -> None:
    """With the content of the backup, in a process that was not there before."""
    application = Application(url)
    application.ran.append("runs")  # this time it comes to its end
    q = application.q
    async with q:
        assert (await q.handle_of(jobs["done"].id).refresh()).result == "done"
        assert (await q.handle_of(jobs["tomorrow"].id).refresh()).status == "scheduled"
        assert await q.get(later.id) is None
        q.start_worker("work", lease="1s")
        for what in ("waits", "runs"):
            assert await q.handle_of(jobs[what].id).result(timeout=LIMIT_S) == what
        assert (await q.handle_of(jobs["runs"].id).refresh()).lost == 1
        assert await every_page(lambda cursor: q.get_exposed("backend").check(cursor, 500)) == []


@asynccontextmanager
async def lived(url: str) -> AsyncIterator[tuple[Application, dict[str, JobHandle[str]]]]:
    application = Application(url)
    async with application.q:
        yield application, await application.live()


async def run(*argv: str | Path) -> None:
    process = await asyncio.create_subprocess_exec(*argv, stderr=subprocess.PIPE)
    _, told = await process.communicate()
    assert process.returncode == 0, told


async def test_sqlite_by_its_own_backup(tmp_path: Path) -> None:
    store, copy = tmp_path / "jobs.db", tmp_path / "copy.db"
    async with lived(f"sqlite:{store}") as (application, jobs):
        await asyncio.to_thread(back_up, store, copy)
        later = await application.go_on()
    await goes_on(f"sqlite:{copy}", jobs, later)


def back_up(store: Path, copy: Path) -> None:
    source, target = sqlite3.connect(store), sqlite3.connect(copy)
    source.backup(target)
    target.close()
    source.close()


async def test_redis_by_its_snapshot(own_servers: OwnServers, tmp_path: Path) -> None:
    server = own_servers.redis()
    async with lived(server.url) as (application, jobs):
        with redis.Redis.from_url(server.url) as client:
            await asyncio.to_thread(client.save)
            folder, name = client.config_get("dir")["dir"], client.config_get("dbfilename")["dbfilename"]
        saved = await asyncio.to_thread(shutil.copy, Path(folder, name), tmp_path / "saved.rdb")
        later = await application.go_on()
    server.kill()
    await asyncio.to_thread(shutil.copy, saved, Path(folder, name))
    server.restart()
    await goes_on(server.url, jobs, later)


@pytest.fixture
async def database(postgres_server: Server, namespace: str) -> AsyncIterator[str]:
    """An empty one, by its address."""
    connection = await asyncpg.connect(postgres_server.url)
    await connection.execute(f'create database "{namespace}"')
    yield postgres_server.url.rpartition("/")[0] + f"/{namespace}"
    await connection.execute(f'drop database "{namespace}" with (force)')
    await connection.close()


def tool(server: Server, name: str) -> Path:
    """Of the release of the server, which lies beside it."""
    beside = Path(server.launch.argv[0]).with_name(name) if server.launch is not None else None
    found = beside if beside is not None and beside.exists() else shutil.which(name)
    assert found is not None, f"{name} is neither beside the server nor in the PATH"
    return Path(found)


async def test_postgres_by_a_dump_of_its_schema(
    postgres_server: Server, namespace: str, database: str, tmp_path: Path
) -> None:
    dump = tmp_path / "jobs.dump"
    there = f"{postgres_server.url}?schema={namespace}"
    async with lived(there) as (application, jobs):
        await run(tool(postgres_server, "pg_dump"), "-Fc", "-n", namespace, "-f", dump, postgres_server.url)
        later = await application.go_on()
    await run(tool(postgres_server, "pg_restore"), "--exit-on-error", "-d", database, dump)
    await goes_on(f"{database}?schema={namespace}", jobs, later)
