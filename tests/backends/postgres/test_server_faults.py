"""A server that is killed, stopped, read-only, full, that throws clients out or changes its password.

Each time: what is refused is told by its type, whatever runs is settled once, and the worker heals without help.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from backends.postgres.stores import connected
from backends.troubles import LEASE_MS, Held, enqueued_at_last
from psyqueue import PsyQueue
from psyqueue.backends._postgres.faults import CALL_ERRORS
from psyqueue.errors import StoreFull, StoreUnavailable, StoreUnusable
from support.servers import Server, spawn
from support.store_at import place_on, store_at
from worker.rig import Rig, a_moment, count_effects, effects_of, renewed_often, started, until

SCHEMA = "faults"
REPLICABLE = ("wal_level=replica", "max_wal_senders=1")
_THROW_OUT = """
    select count(pg_terminate_backend(pid)) from pg_stat_activity
    where backend_type = 'client backend' and pid <> pg_backend_pid()
"""
_REFUSE = """
    create function {schema}.refuse() returns trigger language plpgsql as
        $$ begin raise exception using errcode = {code}; end $$;
    create trigger refuse before insert or update on {schema}.job execute function {schema}.refuse();
"""


@pytest.fixture
def server(own_servers) -> Server:
    """One's own: its settings are changed."""
    made: Server = own_servers.postgres(durable=True)
    return made


@pytest.fixture
async def admin(server) -> AsyncIterator[asyncpg.Connection]:
    async with connected(server.url) as connection:
        yield connection


@pytest.fixture
async def rig(server) -> AsyncIterator[Rig]:
    async with started(Rig(store_at(place_on(server.url, SCHEMA)))) as made:
        yield made


class Running:
    """Three jobs that run, whatever comes."""

    def __init__(self, rig: Rig, lease_ms: int = LEASE_MS) -> None:
        self.rig = rig
        self.held = Held(rig)
        self.worker = rig.worker(concurrency=3, lease_ms=lease_ms)

    async def begin(self) -> None:
        self.jobs = [await self.held.handler.enqueue(n) for n in range(3)]
        await self.rig.told.first("job:started", count=3)

    async def end_well(self) -> None:
        """They ended once, and so does one that comes now."""
        self.held.go.set()
        later, _ = await enqueued_at_last(self.held, 9)
        assert [await job.result(30) for job in (*self.jobs, later)] == [0, 1, 2, 9]
        assert self.held.starts == {0: 1, 1: 1, 2: 1, 9: 1}
        assert await effects_of(self.rig, [*self.jobs, later]) == [1] * 4
        assert (await self.rig.store.check(None, 500))[0] == ()
        assert self.worker.failure is None


@pytest.fixture
async def running(rig, monkeypatch) -> Running:
    count_effects(monkeypatch)
    made = Running(rig)
    await made.begin()
    return made


async def told_of_trouble(rig: Rig, words: str) -> None:
    await until(lambda: any(words in event["error"] for event in rig.told.of("worker:error")))


# ── away ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGQUIT, signal.SIGINT], ids=lambda how: how.name)
async def test_a_server_that_ends_in_any_way_is_waited_for(how, server, running):
    """Killed, immediate and fast shutdown (57P01): all that was acknowledged is there afterwards."""
    os.kill(server.pid, how)
    server.process.wait(10)
    with pytest.raises(StoreUnavailable):
        await running.held.handler.enqueue(3)
    running.held.go.set()
    await running.rig.told.first("worker:error")
    server.restart()
    await running.end_well()


async def test_a_queue_does_not_start_without_its_server(server):
    server.kill()
    queue = PsyQueue().use(store_at(place_on(server.url, SCHEMA)))
    with pytest.raises(StoreUnavailable, match="nobody listens") as told:
        await queue.start()
    assert told.value.outcome == "refused"
    server.restart()
    async with queue:
        await queue.enqueue("later")


@pytest.fixture
async def replicable(own_servers, monkeypatch) -> AsyncIterator[tuple[Server, Running]]:
    server = own_servers.postgres(durable=True, settings=REPLICABLE)
    count_effects(monkeypatch)
    async with started(Rig(store_at(place_on(server.url, SCHEMA)))) as rig:
        running = Running(rig)
        await running.begin()
        yield server, running


def stand_by(server: Server, *settings: str, state: str = "ready") -> Path:
    """Restart it as a replica of nobody; the file whose end makes it a primary again."""
    assert server.process is not None
    assert server.launch is not None
    server.process.send_signal(signal.SIGINT)
    server.process.wait(10)
    mark = server.folder / "data" / "standby.signal"
    mark.touch()
    options = [part for setting in settings for part in ("-c", setting)]
    argv = [*server.launch.argv, *options]
    server.process = spawn(replace(server.launch, argv=argv, is_ready=lambda pid: state in pid_file(server)))
    return mark


def pid_file(server: Server) -> str:
    path = server.folder / "data" / "postmaster.pid"
    return path.read_text() if path.exists() else ""


async def test_a_server_that_is_starting_is_waited_for(replicable):
    """57P03: a replica that lets nobody in says what a server says while it recovers."""
    server, running = replicable
    mark = stand_by(server, "hot_standby=off", state="standby")
    with pytest.raises(StoreUnavailable, match="starting or stopping"):
        await running.held.handler.enqueue(3)
    with pytest.raises(StoreUnavailable) as told:
        await running.rig.store.info()
    assert told.value.outcome == "refused"
    running.held.go.set()
    await told_of_trouble(running.rig, "starting or stopping")
    server.kill()
    mark.unlink()
    server.restart()
    await running.end_well()


async def test_a_replica_is_told_and_waited_for_until_it_is_promoted(replicable):
    """25006: nothing is taken in and nothing is lost."""
    server, running = replicable
    stand_by(server)
    with pytest.raises(StoreUnavailable, match="read-only"):
        await running.held.handler.enqueue(3)
    running.held.go.set()
    await told_of_trouble(running.rig, "read-only")
    with pytest.raises(StoreUnavailable, match="replica"):
        await PsyQueue().use(store_at(place_on(server.url, SCHEMA))).start()
    async with connected(server.url) as connection:
        await connection.execute("select pg_promote()")
    await running.end_well()


async def test_sessions_that_were_made_read_only_are_not_kept(server, admin, monkeypatch):
    """The setting of a database counts for sessions that are made under it, for as long as they live."""
    count_effects(monkeypatch)
    async with started(Rig(store_at(place_on(server.url, SCHEMA), max_size=1))) as rig:
        running = Running(rig)
        await running.begin()
        await admin.execute("alter database postgres set default_transaction_read_only = on")
        await admin.fetchval(_THROW_OUT)
        with pytest.raises(StoreUnavailable, match="read-only"):
            await running.held.handler.enqueue(3)
        running.held.go.set()
        await told_of_trouble(rig, "read-only")
        await admin.execute("set default_transaction_read_only = off")
        await admin.execute("alter database postgres reset default_transaction_read_only")
        await running.end_well()


async def test_an_isolation_that_was_set_under_a_worker_is_told_and_healed_from(server, admin, monkeypatch):
    """Sessions that are made under it would take their locks, and not see what was done before they got them."""
    count_effects(monkeypatch)
    async with started(Rig(store_at(place_on(server.url, SCHEMA), max_size=1))) as rig:
        running = Running(rig)
        await running.begin()
        await admin.execute("alter database postgres set default_transaction_isolation = 'repeatable read'")
        await admin.fetchval(_THROW_OUT)
        with pytest.raises(StoreUnusable, match="default_transaction_isolation is 'repeatable read'"):
            await running.held.handler.enqueue(3)
        with pytest.raises(StoreUnusable, match="default_transaction_isolation"):
            await rig.store.reap(10)
        running.held.go.set()
        await told_of_trouble(rig, "default_transaction_isolation")
        await admin.execute("alter database postgres reset default_transaction_isolation")
        await running.end_well()


def copy_with_owners(folder: Path, to: Path) -> None:
    subprocess.run(["cp", "-a", folder, to], check=True)


async def test_a_server_that_went_back_in_time_is_worked_on(server, rig, monkeypatch):
    """An older copy of its data, or a replica that lacked the last writes: what it lost is done again."""
    running = Running(rig, lease_ms=renewed_often(monkeypatch))  # it asks with each renewal
    await running.begin()
    data, copy, held = server.folder / "data", server.folder / "copy", running.held
    server.process.send_signal(signal.SIGINT)
    server.process.wait(10)
    copy_with_owners(data, copy)
    server.restart()
    held.go.set()
    later, _ = await enqueued_at_last(held, 3)
    assert [await job.result(30) for job in (*running.jobs, later)] == [0, 1, 2, 3]
    server.kill()
    shutil.rmtree(data)
    copy.rename(data)
    server.restart()
    async with asyncio.timeout(60):
        while set(await patiently(lambda: rig.statuses("q"))) != {"completed"}:
            await a_moment()
    again, _ = await enqueued_at_last(held, 4)
    assert await again.result(30) == 4
    assert await rig.q.get(later.id) is None
    assert held.starts == {0: 2, 1: 2, 2: 2, 3: 1, 4: 1}
    assert {(await rig.view(job)).lost for job in running.jobs} == {0}
    assert (await rig.store.check(None, 500))[0] == ()
    assert running.worker.failure is None


# ── nobody is let in ──────────────────────────────────────────────────────────────────────────────────────────────────
async def refused(rig: Rig, admin: asyncpg.Connection) -> StoreUnavailable:
    """What a question is told once the connection of the one before it is gone."""
    while True:
        try:
            await rig.store.info()
        except StoreUnavailable as told:
            return told
        await admin.fetchval(f"{_THROW_OUT} and application_name = 'psyqueue'")


async def test_a_server_without_a_free_connection_is_told_and_waited_for(own_servers, monkeypatch):
    server = own_servers.postgres(settings=("max_connections=20",))
    count_effects(monkeypatch)
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(started(Rig(store_at(place_on(server.url, SCHEMA)))))
        running = Running(rig)
        await running.begin()
        crowd = await stack.enter_async_context(AsyncExitStack())
        admin = await crowd.enter_async_context(connected(server.url))
        while True:
            await admin.fetchval(f"{_THROW_OUT} and application_name = 'psyqueue'")
            try:
                await crowd.enter_async_context(connected(server.url))
            except asyncpg.TooManyConnectionsError:
                break
        running.held.go.set()
        await told_of_trouble(rig, "no connection left")
        told = await refused(rig, admin)
        assert "max_connections" in told.message
        assert told.outcome == "refused"
        await crowd.aclose()
        await running.end_well()


async def test_a_password_that_is_changed_under_a_worker_is_told_and_healed_from(server, admin, monkeypatch):
    count_effects(monkeypatch)
    await admin.execute("create role low login password 'one'; grant create on database postgres to low")
    rules = server.folder / "data" / "pg_hba.conf"
    rules.write_text("host all postgres all trust\nhost all low all scram-sha-256\n")
    await admin.execute("select pg_reload_conf()")
    url = server.url.replace("postgres@", "low:one@")
    async with started(Rig(store_at(place_on(url, SCHEMA)))) as rig:
        running = Running(rig)
        await running.begin()
        await admin.execute("alter role low password 'two'")
        await admin.fetchval(_THROW_OUT)
        with pytest.raises(StoreUnusable, match="password=") as told:
            await running.held.handler.enqueue(3)
        assert "one" not in str(told.value)
        running.held.go.set()
        await told_of_trouble(rig, "password")
        await admin.execute("alter role low password 'one'")
        await running.end_well()


# ── full, and thrown out ──────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_full_disk_takes_nothing_in_and_is_waited_for(admin, running):
    """What the server says then, in the middle of the step."""
    await admin.execute(_REFUSE.format(schema=SCHEMA, code="'53100'"))
    with pytest.raises(StoreFull, match="disk"):
        await running.held.handler.options(id="no").enqueue(3)
    running.held.go.set()
    await told_of_trouble(running.rig, "disk is full")
    assert await running.rig.q.get("no") is None
    await admin.execute(f"drop trigger refuse on {SCHEMA}.job")
    await running.end_well()


async def test_clients_that_are_thrown_out_under_load_run_nothing_twice(server, admin, rig, monkeypatch):
    """All of them with every tenth run; and idle sessions are ended by the server at once."""
    count_effects(monkeypatch)
    starts: Counter[int] = Counter()
    if admin.get_server_version().major >= 14:
        await admin.execute("alter database postgres set idle_session_timeout = '20ms'")
    await admin.execute("alter database postgres set idle_in_transaction_session_timeout = '20ms'")
    turn = itertools.count(1)

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler(n: int) -> int:
        starts[n] += 1
        if next(turn) % 10 == 0:
            with contextlib.suppress(*CALL_ERRORS):  # another was quicker
                async with connected(server.url) as killer:
                    await killer.fetchval(_THROW_OUT)
        return n

    worker = rig.worker(concurrency=4, lease_ms=LEASE_MS)
    jobs = []
    for first in range(0, 200, 20):
        jobs += await asyncio.gather(*[handler.enqueue(n) for n in range(first, first + 20)])
    await until(lambda: len(starts) == 200, 60)
    await until(lambda: worker.health()["held"] == 0)
    await let_sessions_idle(server)  # else a busy machine never answers so many questions in a row
    ended = await patiently(lambda: rig.ended(*jobs))
    assert ended == ["completed"] * 200
    assert set(starts.values()) == {1}
    assert await patiently(lambda: effects_of(rig, jobs)) == [1] * 200
    assert worker.failure is None


async def let_sessions_idle(server) -> None:
    """Those that are made from now on."""
    while True:
        with contextlib.suppress(*CALL_ERRORS):
            async with connected(server.url) as owner:
                await owner.execute("alter database postgres reset all")
                return


async def patiently(ask):
    """A question is not repeated by itself."""
    while True:
        try:
            return await ask()
        except StoreUnavailable:
            await a_moment()
