"""What a server is judged by, and how the judgement is told."""

from __future__ import annotations

from typing import Any

import pytest

from backends.redis.wires import address_of, linked
from psyqueue.backends._redis.facts import Facts, facts, from_info, parse_info, require_usable, survives, warnings
from psyqueue.backends._redis.link import Link
from psyqueue.backends._redis.options import RedisOptions
from psyqueue.errors import StoreUnavailable, StoreUnusable

GOOD: dict[str, Any] = {
    "kind": "redis",
    "version": (8, 2, 3),
    "role": "master",
    "is_cluster": False,
    "aof": "on",
    "appendfsync": "always",
    "rdb_saves": "3600 1",
    "has_saving_failed": False,
    "maxmemory_bytes": 0,
    "maxmemory_policy": "noeviction",
    "replicas": 0,
    "replicas_min": 0,
}
OPTIONS = RedisOptions()


def made(**changes: Any) -> Facts:
    return Facts(**{**GOOD, **changes})


# ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("flavour", ["redis", "valkey"])
async def test_a_real_server_tells_its_facts(own_servers, flavour):
    server = own_servers.redis(flavour=flavour)
    async with linked(server) as link:
        found = await facts(link, OPTIONS)
    assert (found.kind, found.version_text) == (flavour, server.version)
    assert (found.aof, found.appendfsync, found.rdb_saves) == ("off", "no", "")
    assert (found.role, found.is_cluster, found.has_saving_failed) == ("master", False, False)
    assert (found.maxmemory_bytes, found.maxmemory_policy) == (0, "noeviction")
    assert (found.replicas, found.replicas_min) == (0, 0)


async def test_a_changed_server_tells_other_facts(own_servers):
    server = own_servers.redis(durable=True)
    settings: dict[str, Any] = {
        "maxmemory": "100mb",
        "maxmemory-policy": "allkeys-lru",
        "save": "900 1 300 10",
        "min-replicas-to-write": 1,
    }
    async with linked(server) as link:
        for name, value in settings.items():
            await link.call("CONFIG", "SET", name, value)
        found = await facts(link, OPTIONS)
    assert (found.aof, found.appendfsync, found.rdb_saves) == ("on", "always", "900 1 300 10")
    assert (found.maxmemory_bytes, found.maxmemory_policy, found.replicas_min) == (100 << 20, "allkeys-lru", 1)


async def test_replicas_and_masters_are_told_apart(own_servers):
    master, replica = own_servers.redis(), own_servers.redis()
    async with linked(master) as to_master, linked(replica) as to_replica:
        address = address_of(master)
        await to_replica.call("REPLICAOF", address.host, address.port)
        while not (found := await facts(to_master, OPTIONS)).replicas:
            pass
        assert found.replicas == 1
        assert (await facts(to_replica, OPTIONS)).role == "slave"
        with pytest.raises(StoreUnavailable, match="replica") as refused:
            require_usable(await facts(to_replica, OPTIONS), OPTIONS)
        assert refused.value.outcome == "refused"


async def test_settings_that_are_forbidden_are_unknown_and_said_to_be(own_servers):
    server = own_servers.redis(durable=True)
    async with linked(server) as link:
        await link.call("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-config")
    async with linked(server, username="app", password="pw") as link:
        found = await facts(link, OPTIONS)
    assert (found.aof, found.appendfsync, found.maxmemory_policy) == ("on", "unknown", "noeviction")
    assert survives(found)["power_loss"] == "unknown"
    assert any("unknown" in text for text in warnings(found, OPTIONS))
    require_usable(found, OPTIONS)


async def test_a_user_who_may_not_even_ask_is_refused(own_servers):
    server = own_servers.redis()
    async with linked(server) as link:
        await link.call("ACL", "SETUSER", "app", "on", ">pw", "~*", "+get")
    async with linked(server, username="app", password="pw") as link:
        with pytest.raises(StoreUnusable, match="ACL"):
            await facts(link, OPTIONS)


def test_a_server_that_says_nothing_leaves_all_unknown():
    found = from_info(parse_info(b"# Server\r\nodd line\r\n"), {})
    assert (found.version, found.role, found.aof, found.replicas) == ((), "unknown", "unknown", None)
    assert set(survives(found).values()) == {"safe", "unknown"}
    require_usable(found, OPTIONS)


# ── judging ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("changes", "server_crash", "power_loss"),
    [
        ({}, "safe", "safe"),
        ({"appendfsync": "everysec"}, "bounded_loss", "bounded_loss"),
        ({"appendfsync": "no"}, "bounded_loss", "lost"),
        ({"appendfsync": "unknown"}, "unknown", "unknown"),
        ({"aof": "off"}, "lost", "lost"),
        ({"aof": "off", "rdb_saves": ""}, "lost", "lost"),
        ({"aof": "unknown"}, "unknown", "unknown"),
    ],
)
def test_what_survives_is_what_was_synced(changes, server_crash, power_loss):
    found = survives(made(**changes))
    assert found["process_crash"] == "safe"
    assert (found["server_crash"], found["power_loss"]) == (server_crash, power_loss)


@pytest.mark.parametrize(("replicas", "failover"), [(0, "lost"), (2, "bounded_loss"), (None, "unknown")])
def test_a_failover_may_always_lose_what_was_not_replicated(replicas, failover):
    assert survives(made(replicas=replicas))["failover"] == failover


@pytest.mark.parametrize("version", [(6, 0, 16), (5,), (2, 8, 24), (6, 1, 99)])
def test_an_old_server_is_refused_with_its_version(version):
    with pytest.raises(StoreUnusable, match=r"6\.2"):
        require_usable(made(version=version), OPTIONS)


@pytest.mark.parametrize("version", [(6, 2), (6, 2, 0), (7, 0, 15), (10, 0), ()])
def test_a_newer_server_is_taken(version):
    require_usable(made(version=version), OPTIONS)


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
def test_a_server_that_throws_jobs_away_is_refused_unless_that_is_wanted(policy):
    found = made(maxmemory_policy=policy)
    with pytest.raises(StoreUnusable, match="noeviction"):
        require_usable(found, OPTIONS)
    allowed = RedisOptions(allow_eviction=True)
    require_usable(found, allowed)
    assert any("throws jobs away" in text for text in warnings(found, allowed))


@pytest.mark.parametrize("policy", ["volatile-lru", "volatile-ttl", "unknown"])
def test_a_policy_that_spares_jobs_is_a_warning(policy):
    found = made(maxmemory_policy=policy)
    require_usable(found, OPTIONS)
    assert any("noeviction" in text for text in warnings(found, OPTIONS))


def test_a_good_server_is_warned_about_nothing():
    assert warnings(made(), OPTIONS) == ()
    assert warnings(made(appendfsync="everysec", replicas=2), RedisOptions(host="far", tls=True, password="p")) == ()


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({"aof": "off", "rdb_saves": ""}, OPTIONS, "saves nothing"),
        ({"aof": "off"}, OPTIONS, "snapshots"),
        ({"appendfsync": "no"}, OPTIONS, "power loss"),
        ({"has_saving_failed": True}, OPTIONS, "failed"),
        ({"is_cluster": True}, OPTIONS, "cluster"),
        ({}, RedisOptions(test_clock=True), "clock"),
        ({}, RedisOptions(tls=True, tls_verify=False), "not verified"),
        ({}, RedisOptions(host="far", password="p"), "in the clear"),
    ],
)
def test_each_danger_is_told(changes, options, says):
    (text,) = warnings(made(**changes), options)
    assert says in text


def test_the_names_are_those_of_info():
    from psyqueue.backend import Info

    assert set(survives(made())) <= set(Info.__struct_fields__)
    assert isinstance(Link(OPTIONS.address).is_connected, bool)
