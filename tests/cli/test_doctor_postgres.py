"""`psyqueue doctor` on real PostgreSQL servers: what can be wrong is made wrong, found, and comes with advice."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from psyqueue import PsyQueue
from psyqueue.backends._postgres import facts, health
from psyqueue.cli import doctor_postgres
from support.doctor import Doctor
from support.postgres_server import is_ready
from support.server_home import ServerHome
from support.servers import Launch, Server, free_port, own_server
from support.waiting import wait_until


class Session:
    """A connection that stays open, with a loop of its own: the commands have theirs."""

    def __init__(self, url: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._connection = self._loop.run_until_complete(asyncpg.connect(url, **options))

    def do(self, *statements: str) -> None:
        for statement in statements:
            self._loop.run_until_complete(self._connection.execute(statement))

    def value(self, statement: str) -> Any:
        return self._loop.run_until_complete(self._connection.fetchval(statement))

    def close(self) -> None:
        self._connection.terminate()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


class Rig(Doctor):
    """With an own session as the server's owner."""

    def __init__(self, cli: Any, server: Server, stack: contextlib.ExitStack) -> None:
        super().__init__(cli, server)
        self._stack = stack
        self.owner = self.session()

    def session(self, **options: Any) -> Session:
        made = Session(self.server.url, **options)
        self._stack.callback(made.close)
        return made

    def url_of(self, role: str) -> str:
        return str(self.server.url).replace("postgres@", f"{role}@")

    def role(self, name: str, *more: str) -> str:
        """A new role that may use the store; its address."""
        self.owner.do(
            f"create role {name} login",
            f"grant usage on schema psyqueue to {name}",
            f"grant select, insert, update, delete on all tables in schema psyqueue to {name}",
            f"grant usage, select, update on all sequences in schema psyqueue to {name}",
            *more,
        )
        return self.url_of(name)

    def start_again(self, *options: str) -> None:
        """With these settings besides its own. The owner's session is a new one."""
        launch = self.server.launch
        assert launch is not None
        argv = [*launch.argv, *(part for option in options for part in ("-c", option))]
        self.server.launch = replace(launch, argv=argv)
        self.server.restart()
        self.owner = self.session()

    def durability(self) -> dict[str, Any]:
        return dict(self.cli.json("durability"))


@pytest.fixture
def rig(cli, own_servers, monkeypatch) -> Iterator[Rig]:
    """A sound server, with a store in which all is well. Neither the speed of this machine nor the day is a finding."""
    monkeypatch.setattr(doctor_postgres, "ROUND_TRIP_MS_MAX", math.inf)
    monkeypatch.setattr(doctor_postgres, "SUPPORTED_UNTIL", {})
    with contextlib.ExitStack() as stack:
        made = Rig(cli, own_servers.postgres(durable=True), stack)
        cli.make_active("slow")
        yield made


def test_looking_writes_nothing(rig):
    """Proven by a server that refuses to write; without reading, `durability` would fail the same."""
    rig.cli.enqueue("mail")
    rig.owner.do("alter role postgres set default_transaction_read_only = on")
    refused = rig.cli.call("enqueue", "mail")
    assert "read-only" in refused.err, refused
    assert list(rig.failed()) == ["queues without worker"]
    assert list(rig.failed("--backend", f"{rig.server.url}?schema=other")) == ["schema"]


# ── what a crash leaves ───────────────────────────────────────────────────────────────────────────────────────────────
def test_settings_that_lose_everything_are_found_and_told_once(rig):
    rig.start_again("fsync=off", "full_page_writes=off")
    found = rig.failed()
    assert list(found) == ["saving"], "the warnings of the store are that finding"
    assert "fsync is off: a power loss may destroy the whole database" in found["saving"]
    assert "full_page_writes is off: a power loss may destroy pages" in found["saving"]
    told = rig.durability()
    assert (told["server_crash"], told["power_loss"]) == ("safe", "lost")
    rig.start_again("fsync=on")
    assert rig.durability()["power_loss"] == "unknown"


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("alter role postgres set synchronous_commit = off", "is off for this role (ALTER ROLE)"),
        ("alter database postgres set synchronous_commit = off", "is off for this database (ALTER DATABASE)"),
        (
            "alter role postgres in database postgres set synchronous_commit = off",
            "is off for this role in this database",
        ),
    ],
)
def test_commits_that_wait_for_no_disk_are_found_with_who_said_so(rig, statement, words):
    assert rig.durability()["power_loss"] == "safe"
    rig.owner.do(statement)
    found = rig.failed()
    assert list(found) == ["commits"], "the warning of the store is that finding"
    assert words in found["commits"]
    assert "a crash may lose jobs of the last second or so" in found["commits"]
    told = rig.durability()
    assert (told["process_crash"], told["server_crash"], told["power_loss"]) == ("safe", "bounded_loss", "bounded_loss")
    assert any(words in warning for warning in told["warnings"])


def test_commits_of_another_role_that_wait_for_no_disk_are_found(rig):
    rig.role("shop", "alter role shop set synchronous_commit = off")
    rig.owner.do("create role stranger login", "alter role stranger set synchronous_commit = off")
    assert rig.failed() == {"commits": "synchronous_commit is off for shop: a crash may lose what they enqueue"}
    assert rig.durability()["power_loss"] == "safe", "of what this role enqueues"


def test_standbys_that_are_waited_for_and_away_are_found_and_told_while_connected(rig):
    async def told(queue: PsyQueue) -> Any:
        before = (await queue.durability()).failover
        connection = await asyncpg.connect(rig.server.url)
        try:
            await connection.execute("alter system set synchronous_standby_names = 'nobody'")
            await connection.execute("select pg_reload_conf()")
            async with asyncio.timeout(20):
                while not (found := await queue.durability()).warnings:
                    await asyncio.sleep(0)
        finally:
            await connection.close()
        return before, found.failover, found.warnings

    before, after, warnings = rig.cli.with_queue(told)
    assert (before, after) == ("unknown", "safe")
    assert "every commit waits" in warnings[0]
    found = rig.failed()
    assert list(found) == ["standbys"]
    assert found["standbys"].startswith("0 connected, 0 synchronous, commits wait for 'nobody'")
    rig.owner.do("alter role postgres set synchronous_commit = local")
    found = rig.failed()
    assert "synchronous_commit is local for this role (ALTER ROLE): the standbys" in found["commits"]
    assert rig.durability()["failover"] == "unknown"


# ── a standby ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def standby_of(primary: Server, *options: str) -> Server:
    """A copy of the stopped primary that follows it from now on; the primary runs again. Begun as its `launch` says."""
    assert primary.launch is not None
    assert primary.process is not None
    home = ServerHome()
    identity = primary.launch.identity
    primary.process.send_signal(signal.SIGINT)
    primary.process.wait(20)
    shutil.copytree(primary.folder / "data", home / "data")
    primary.restart()
    (home / "data" / "standby.signal").touch()
    for path in (home.path, *home.path.rglob("*")):
        if identity:
            os.chown(path, identity["user"], identity["group"])
    (home / "data").chmod(0o700)
    port, old = free_port(), urlsplit(primary.url)
    swapped = {
        str(primary.folder / "data"): str(home / "data"),
        str(primary.folder): str(home.path),
        str(old.port): str(port),
    }
    argv = [swapped.get(part, part) for part in primary.launch.argv]
    follow = f"primary_conninfo=host=127.0.0.1 port={old.port} user=postgres application_name=second"
    argv += [part for option in (follow, *options) for part in ("-c", option)]
    launch = Launch(
        argv=argv,
        home=home,
        is_ready=lambda pid: is_ready(home / "data" / "postmaster.pid", pid),
        ready_s_max=primary.launch.ready_s_max,
        env=primary.launch.env,
        identity=identity,
    )
    url = primary.url.replace(str(old.port), str(port))
    return own_server(
        launch, kind="postgres", url=url, version=primary.version, origin=primary.origin, began=time.monotonic()
    )


def test_a_standby_is_found_and_what_it_keeps(rig):
    """In order: it follows; it is waited for; its snapshot holds rows; it is gone, and its slot stays."""
    rig.start_again("wal_level=replica", "max_wal_senders=4", "max_replication_slots=4")
    rig.owner.do("select pg_create_physical_replication_slot('second', true)")
    assert "slot second (not in use) keeps 0 MiB of log" in rig.failed()["replication slots"]
    standby = standby_of(
        rig.server,
        "hot_standby=on",
        "primary_slot_name=second",
        "hot_standby_feedback=on",
        "wal_receiver_status_interval=1",
    )
    try:
        rig.owner = rig.session()
        assert wait_until(lambda: rig.owner.value("select count(*) from pg_stat_replication where state = 'streaming'"))
        assert rig.failed() == {}
        assert rig.durability()["failover"] == "bounded_loss"
        assert "takes no writes" in rig.failed("--backend", standby.url)["server"]

        rig.owner.do("alter system set synchronous_standby_names = 'second'", "select pg_reload_conf()")
        assert wait_until(lambda: rig.owner.value("select sync_state from pg_stat_replication") == "sync")
        assert rig.checks()["standbys"]["detail"] == "1 connected, 1 synchronous, commits wait for 'second'"
        assert rig.durability()["failover"] == "safe"
        rig.owner.do("alter system reset synchronous_standby_names", "select pg_reload_conf()")

        reader = Session(standby.url)
        reader.do("begin isolation level repeatable read", "select count(*) from psyqueue.job")
        assert wait_until(lambda: rig.owner.value("select xmin is not null from pg_replication_slots"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(doctor_postgres, "OLD_XIDS_MAX", -1)
            assert "slot second (in use) keeps rows of the last" in rig.failed()["replication slots"]
        standby.kill()
        reader.close()
        assert wait_until(lambda: rig.owner.value("select not active from pg_replication_slots"))
        found = rig.failed()
        assert list(found) == ["replication slots"]
        assert "slot second (not in use) keeps rows of the last" in found["replication slots"]
    finally:
        standby.stop()


# ── what keeps dead rows ──────────────────────────────────────────────────────────────────────────────────────────────
def test_an_old_transaction_is_found_with_its_owner(rig, monkeypatch):
    url = rig.role("shop")
    monkeypatch.setattr(doctor_postgres, "OLD_S_MAX", 0.0)
    assert rig.failed() == {}
    reporter = Session(url, server_settings={"application_name": "reports"})
    reporter.do("begin isolation level repeatable read", "select count(*) from psyqueue.job")
    pid = reporter.value("select pg_backend_pid()")
    found = rig.checks()
    assert [name for name, each in found.items() if not each["ok"]] == ["old transactions"]
    assert f"(idle in transaction): pid {pid}, role shop, application reports" in found["old transactions"]["detail"]
    assert f"pg_terminate_backend({pid})" in found["old transactions"]["advice"]

    monkeypatch.setattr(doctor_postgres, "OLD_S_MAX", 1e9)
    assert f"pid {pid}" in rig.checks()["old transactions"]["detail"], "it is shown, and is no finding"
    rig.owner.do("create role other login")
    reporter.do("commit")
    reporter.close()


def test_what_a_role_is_not_shown_is_said_to_be_unknown(rig, monkeypatch):
    monkeypatch.setattr(doctor_postgres, "OLD_S_MAX", 0.0)
    url = rig.role("shop", "grant execute on all functions in schema psyqueue to shop")
    rig.owner.do("begin isolation level repeatable read", "select count(*) from psyqueue.job")
    found = rig.checks("--backend", url)
    assert [name for name, each in found.items() if not each["ok"]] == []
    assert "sessions are not shown to this role (GRANT pg_monitor shows them)" in found["old transactions"]["detail"]
    rig.session().do("grant pg_monitor to shop")
    assert "role postgres" in rig.failed("--backend", url)["old transactions"]


def test_a_prepared_transaction_is_found(rig, monkeypatch):
    rig.start_again("max_prepared_transactions=4")
    rig.owner.do("begin", "create table mine (n int)", "prepare transaction 'left over'")
    assert rig.checks()["prepared transactions"]["detail"] == "1 wait"
    monkeypatch.setattr(doctor_postgres, "OLD_S_MAX", 0.0)
    assert "'left over' of role postgres, for " in rig.failed()["prepared transactions"]
    rig.owner.do("rollback prepared 'left over'")
    assert rig.failed() == {}


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        (["alter system set autovacuum = off"], "autovacuum is off"),
        (["alter system set track_counts = off"], "track_counts is off"),
        (["alter table psyqueue.job set (autovacuum_enabled = false)"], "autovacuum_enabled is off for job"),
    ],
)
def test_a_server_that_does_not_vacuum_is_found(rig, statements, says):
    rig.owner.do(*statements, "select pg_reload_conf()")
    assert wait_until(lambda: "autovacuum" in rig.failed())
    assert rig.failed() == {"autovacuum": says}


def test_dead_rows_are_found(rig, monkeypatch):
    monkeypatch.setattr(doctor_postgres, "DEAD_ROWS_MIN", 1_000)
    monkeypatch.setattr(doctor_postgres, "DEAD_SHARE_MAX", 1)
    writer = Session(rig.server.url)
    writer.do(
        "alter table psyqueue.turn set (autovacuum_enabled = false)",
        "insert into psyqueue.turn select 'c', 1, n, 'ack', '', 1 from generate_series(1, 3000) as n",
        "delete from psyqueue.turn",
    )
    writer.close()  # what it did is counted at once then
    assert wait_until(lambda: "dead rows" in rig.failed())
    found = rig.failed()
    assert found["autovacuum"] == "autovacuum_enabled is off for turn"
    assert found["dead rows"].startswith("turn has 3,0")
    rig.owner.do("alter table psyqueue.turn reset (autovacuum_enabled)", "vacuum psyqueue.turn")
    assert wait_until(lambda: not rig.failed())
    assert "turn" not in rig.checks()["dead rows"]["detail"]


def test_a_table_that_a_crash_empties_is_found(rig):
    rig.owner.do("alter table psyqueue.body set unlogged")
    assert rig.failed() == {"tables": "body unlogged: a crash of the server empties them"}


# ── the role and the way ──────────────────────────────────────────────────────────────────────────────────────────────
def test_a_role_without_rights_is_found(rig):
    rig.owner.do("create role app login")
    url = rig.url_of("app")
    found = rig.failed("--backend", url)
    assert "does not allow this user" in found["schema"]
    assert found["rights"].startswith("role app lacks USAGE on schema psyqueue, ")
    found = rig.failed("--backend", rig.role("shop", "revoke delete on psyqueue.job from shop"))
    assert found == {"rights": "role shop lacks DELETE on job"}
    functions = rig.owner.value("select count(*) from pg_proc where pronamespace = 'psyqueue'::regnamespace")
    rig.owner.do(
        "revoke execute on all functions in schema psyqueue from public, shop", "grant delete on psyqueue.job to shop"
    )
    assert functions > 3
    assert "EXECUTE on function" in rig.failed("--backend", rig.url_of("shop"))["rights"]


def test_a_server_without_room_for_connections_is_found(rig):
    rig.owner.do("alter role postgres connection limit 12")
    assert re.search(r"may open (9|10|11) more, a process takes up to 12", rig.failed()["connections"])
    rig.owner.do("alter role postgres connection limit 60")
    assert rig.failed() == {}
    rig.start_again("max_connections=12")
    assert " of 12 used; this role may open " in rig.failed()["connections"]
    assert rig.failed("--backend", f"{rig.server.url}?max_size=2") == {}


@pytest.mark.parametrize("timeout", ["statement_timeout", "lock_timeout", "idle_session_timeout"])
def test_short_timeouts_of_the_role_are_found(rig, timeout):
    if timeout == "idle_session_timeout" and rig.server.version < "14":
        pytest.skip("it came with 14")
    rig.owner.do(f"alter role postgres set {timeout} = '900ms'")
    assert rig.failed() == {"timeouts": f"{timeout} 900 ms"}
    rig.owner.do(f"alter role postgres set {timeout} = '10min'")
    assert rig.checks()["timeouts"]["detail"] == f"{timeout} 600,000 ms"


def test_an_unfit_database_is_found(rig):
    rig.owner.do("alter role postgres set default_transaction_isolation = 'serializable'")
    assert "needs 'read committed'" in rig.failed()["server"]
    rig.owner.do("create database latin encoding 'LATIN1' template template0")
    rig.owner.do("alter role postgres reset default_transaction_isolation")
    url = rig.server.url.removesuffix("postgres") + "latin"
    assert "has encoding LATIN1" in rig.failed("--backend", url)["server"]
    assert "no such database" in rig.failed("--backend", url.replace("latin", "nowhere"))["server"]


def test_old_servers_are_found(rig, monkeypatch):
    """By other limits: real servers of such an age are not at hand."""
    major = int(rig.server.version.partition(".")[0])
    monkeypatch.setitem(doctor_postgres.SUPPORTED_UNTIL, major, date(2020, 1, 1))
    assert rig.failed()["server"].endswith(f"{major} got its last fixes on 2020-01-01")
    monkeypatch.setattr(facts, "VERSION_MIN", 990_000)
    assert "psyqueue needs 13 or newer. Upgrade the server" in rig.failed()["server"]


def own_address() -> str:
    """An address of this machine that is not the loopback's."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        return str(probe.getsockname()[0])


def test_a_network_without_tls_is_found(rig):
    address = own_address()
    launch = rig.server.launch
    rig.server.launch = replace(launch, argv=["0.0.0.0" if part == "127.0.0.1" else part for part in launch.argv])
    with (rig.server.folder / "data" / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {address}/32 trust\n")
    rig.server.restart()
    found = rig.failed("--backend", rig.server.url.replace("127.0.0.1", address))
    assert found == {"network": f"{address}, without TLS"}


@contextlib.contextmanager
def without_notices(url: str) -> Iterator[str]:
    """The address of a front before a server that hands no notice on, as poolers in transaction mode do."""
    place, opened, threads = urlsplit(url), list[socket.socket](), list[threading.Thread]()
    front, begun = socket.create_server(("127.0.0.1", 0)), set[socket.socket]()

    def requests(client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65_536):
                server.sendall(data)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def replies(server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError), server.makefile("rb") as stream:
            while kind := stream.read(1):
                if kind == b"N" and client not in begun:
                    begun.add(client)
                    client.sendall(kind)  # no TLS: the one reply without a length
                    continue
                size = stream.read(4)
                body = stream.read(int.from_bytes(size, "big") - 4)
                if kind != b"A":
                    client.sendall(kind + size + body)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = front.accept()
                server = socket.create_connection((place.hostname, place.port))
                opened.extend((client, server))
                for target, ends in ((requests, (client, server)), (replies, (server, client))):
                    threads.append(threading.Thread(target=target, args=ends))
                    threads[-1].start()

    threads.append(threading.Thread(target=serve))
    threads[0].start()
    try:
        yield url.replace(str(place.port), str(front.getsockname()[1]))
    finally:
        front.shutdown(socket.SHUT_RDWR)
        for each in opened:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for each in (front, *opened):
            each.close()


def test_a_pooler_that_swallows_notices_is_found(rig, monkeypatch):
    monkeypatch.setattr(health, "NOTICE_S", 0.2)
    with without_notices(rig.server.url) as url:
        found = rig.checks("--backend", url)
    assert [name for name, each in found.items() if not each["ok"]] == ["notices"]
    assert "session mode; else give prepared=False" in found["notices"]["advice"]


# ── the schema ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_foreign_tables_and_other_releases_in_the_place_of_a_store_are_found(rig):
    rig.owner.do("create schema theirs", "create table theirs.job (n int)")
    found = rig.failed("--backend", f"{rig.server.url}?schema=theirs")
    assert found == {"schema": "schema theirs of database postgres holds what psyqueue did not make"}
    rig.owner.do("delete from psyqueue.function_set")
    found = rig.failed()
    assert list(found) == ["schema"], "it is not opened, which would add them"
    assert "lacks the functions of this psyqueue" in found["schema"]
    rig.owner.do("insert into psyqueue.migration values (99, 'later', '')")
    assert "this psyqueue knows" in rig.failed()["schema"]
    rig.owner.do("delete from psyqueue.migration")
    assert "lacks" in rig.failed()["schema"]
    assert not rig.owner.value("select exists (select from psyqueue.migration)"), "looking adds nothing"


def test_a_role_that_may_not_make_a_store_is_told_so(rig):
    rig.owner.do("create role app login")
    found = rig.checks("--backend", f"{rig.url_of('app')}?schema=other")
    assert not found["schema"]["ok"]
    assert "once role app may (GRANT CREATE ON DATABASE)" in found["schema"]["advice"]
    assert "once role" not in rig.checks("--backend", f"{rig.server.url}?schema=other")["schema"]["advice"]
