"""`psyqueue doctor` on real servers: what can be wrong with one is made wrong, found, and comes with advice."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from psyqueue.cli import doctor_redis
from support.doctor import Doctor


class Rig(Doctor):
    def __init__(self, cli: Any, server: Any) -> None:
        super().__init__(cli, server)
        self.client = redis.Redis.from_url(server.url)

    def set(self, **settings: str | int) -> None:
        for name, value in settings.items():
            self.client.config_set(name.replace("_", "-"), value)


@pytest.fixture
def rig(cli, own_servers, monkeypatch) -> Iterator[Rig]:
    """A sound server, with a store in which all is well. How fast this machine is just now is no finding."""
    monkeypatch.setattr(doctor_redis, "ROUND_TRIP_MS_MAX", math.inf)
    made = Rig(cli, own_servers.redis(durable=True))
    cli.make_active("slow")
    yield made
    made.client.close()


def test_looking_writes_nothing(rig):
    def written() -> tuple[int, int]:
        info = rig.client.info()
        return info["rdb_changes_since_last_save"], rig.client.dbsize()

    rig.cli.enqueue("mail")
    before = written()
    rig.checks()
    rig.checks("--backend", f"{rig.server.url}?key_prefix=other:")
    assert written() == before


def test_foreign_keys_in_the_place_of_a_store_are_found(rig):
    rig.client.set("other:{other}:meta", "text")
    rig.client.hset("third:{third}:meta", "schema", "theirs")
    rig.client.hset("newer:{newer}:meta", "schema", 99)
    for prefix, says in (("other:", "foreign key"), ("third:", "did not write"), ("newer:", "schema 99")):
        found = rig.failed("--backend", f"{rig.server.url}?key_prefix={prefix}")
        assert says in found["namespace"]
        refused = rig.cli.call("enqueue", "mail", "--backend", f"{rig.server.url}?key_prefix={prefix}")
        assert refused.code == 2, refused
        assert "Traceback" not in refused.err


# ── the server ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_user_without_rights_is_found(rig):
    rig.client.acl_setuser("app", enabled=True, passwords=["+pw"], keys=["*"], commands=["+get"])
    place = urlsplit(rig.server.url).netloc
    assert "does not allow this user" in rig.failed("--backend", f"redis://app:pw@{place}")["server"]


def test_what_a_server_does_not_show_passes_and_is_said_to_be_unknown(rig):
    rig.client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-config")
    place = urlsplit(rig.server.url).netloc
    found = rig.checks("--backend", f"redis://app:pw@{place}")
    assert found["access"]["detail"] == found["small hashes"]["detail"] == "not shown by the server (CONFIG GET)"
    assert [name for name, each in found.items() if not each["ok"]] == ["saving"]
    assert "unknown" in found["saving"]["detail"]


def test_a_replica_is_found(rig, own_servers):
    master = urlsplit(own_servers.redis().url)
    rig.client.replicaof(master.hostname, master.port)
    found = rig.failed()
    assert found["role"] == "slave"
    assert "is a replica" in found["store"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"appendonly": "no"}, "saves nothing that is known"),
        ({"appendonly": "no", "save": "3600 1"}, "snapshots alone"),
        ({"appendfsync": "no"}, "never syncs by itself"),
    ],
)
def test_a_server_that_loses_jobs_with_its_crash_is_found_and_told_once(rig, settings, says):
    rig.set(**settings)
    found = rig.failed()
    assert list(found) == ["saving"], "the warning of the store is that finding"
    assert says in found["saving"]


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru"])
def test_a_policy_that_is_not_noeviction_is_found(rig, policy):
    rig.set(maxmemory_policy=policy)
    found = rig.failed()
    assert policy in found["memory"]
    assert ("store" in found) == policy.startswith("allkeys")


def test_a_server_that_is_nearly_full_is_found(rig):
    rig.set(maxmemory=int(rig.client.info("memory")["used_memory"] * 1.02) + 4_096)
    assert "nearly full" in rig.failed()["memory"]


def test_missing_replicas_are_found(rig):
    rig.set(min_replicas_to_write=1)
    assert rig.failed()["replicas"] == "0, min-replicas-to-write 1"


@pytest.mark.parametrize(
    ("settings", "is_open"),
    [
        ({"bind": "0.0.0.0", "protected-mode": "no"}, True),
        ({"bind": "0.0.0.0", "protected-mode": "yes"}, False),
        ({"bind": "127.0.0.1", "protected-mode": "no"}, False),
        ({"bind": "0.0.0.0", "protected-mode": "no", "requirepass": "pw"}, False),
    ],
)
def test_a_server_that_lets_strangers_in_is_found(rig, settings, is_open):
    for name, value in settings.items():
        rig.client.config_set(name, value)
    if "requirepass" in settings:
        rig.cli.url = f"redis://:pw@{urlsplit(rig.server.url).netloc}"
    assert (list(rig.failed()) == ["access"]) == is_open


def test_small_limits_of_hashes_are_found(rig):
    rig.client.config_set(f"hash-max-{'ziplist' if rig.server.version < '7' else 'listpack'}-value", 32)
    assert "of 32 bytes" in rig.failed()["small hashes"]


# ── the way to it ─────────────────────────────────────────────────────────────────────────────────────────────────────
def own_address() -> str:
    """An address of this machine that is not the loopback's."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        return str(probe.getsockname()[0])


def test_a_network_without_tls_is_found(rig):
    rig.set(bind="0.0.0.0", requirepass="pw")
    port = urlsplit(rig.server.url).port
    found = rig.failed("--backend", f"redis://:pw@{own_address()}:{port}")
    assert list(found) == ["network"], "the warning of the store is that finding"
    assert found["network"].endswith("without TLS")


# ── the store ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_broken_invariants_are_found(rig):
    job_id = rig.cli.enqueue("mail")
    (key,) = rig.client.keys(f"*:b:{job_id}")
    rig.client.delete(key)
    assert job_id in rig.failed()["invariants"]


@contextlib.contextmanager
def told_otherwise(url: str, said: bytes, told: bytes) -> Iterator[str]:
    """The address of a front before a server, which says one thing where that says another."""
    place, opened, threads = urlsplit(url), list[socket.socket](), list[threading.Thread]()
    front = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data.replace(said, told))
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def start(target: Any, *arguments: Any) -> None:
        threads.append(threading.Thread(target=target, args=arguments))
        threads[-1].start()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _ = front.accept()
                theirs = socket.create_connection((place.hostname, place.port))
                opened.extend((ours, theirs))
                start(pump, ours, theirs)
                start(pump, theirs, ours)

    start(serve)
    try:
        yield f"redis://127.0.0.1:{front.getsockname()[1]}"
    finally:
        front.shutdown(socket.SHUT_RDWR)
        for each in opened:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for each in (front, *opened):
            each.close()


def test_a_server_that_is_too_old_is_found(rig):
    """By what it says of itself: a real server of such an age is not at hand."""
    version = rig.server.version.encode()
    old = b"5" + version[1:]
    with told_otherwise(rig.server.url, b"_version:" + version, b"_version:" + old) as url:
        found = rig.failed("--backend", url)
        refused = rig.cli.call("enqueue", "mail", "--backend", url)
    assert f"{old.decode()} (6.2 or newer is needed)" in found["server"]
    assert refused.code == 2
    assert "psyqueue needs 6.2 or newer. Upgrade the server" in refused.err
