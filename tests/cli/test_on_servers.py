"""The commands on a server, named by `--backend` or by PSYQUEUE_URL: the same on Redis and on PostgreSQL."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
import redis

from support.waiting import wait_until

_SCHEMAS = "select nspname from pg_namespace where nspname like $1 || '%'"


@dataclass
class OnServer:
    """The commands of one folder, on a store of its own. `left`: what of it is on the server.

    `demo_store`: how the address of the demo's own store ends, up to its number; `demo_says`: what it says of that.
    """

    shop: Any
    left: Callable[[], list[str]]
    demo_store: str
    demo_says: str


def keys_on(server: Any, namespace: str) -> list[str]:
    with redis.Redis.from_url(server.url) as client:
        return [key.decode() for key in client.keys(f"{namespace}:*")]


def schemas_on(server: Any, namespace: str) -> list[str]:
    async def ask() -> list[str]:
        connection = await asyncpg.connect(server.url)
        try:
            return [row[0] for row in await connection.fetch(_SCHEMAS, namespace)]
        finally:
            await connection.close()

    return asyncio.run(ask())


@pytest.fixture(params=["redis", "postgres"])
def on_server(request, shop, namespace):
    server = request.getfixturevalue(f"{request.param}_server")
    if request.param == "redis":
        shop.url = f"{server.url}?key_prefix={namespace}:"
        own = f"{namespace}:psyqueue-demo-"
        says = rf"\w+ [\d.]+ at \S+, keys {own}\w+:…"
        return OnServer(shop, lambda: keys_on(server, namespace), f"key_prefix={own}", says)
    shop.url = f"{server.url}?schema={namespace}"
    own = f"{namespace}_psyqueue_demo_"
    says = rf"postgres .+ at \S+, schema {own}\w+"
    return OnServer(shop, lambda: schemas_on(server, namespace), f"schema={own}", says)


# ── every command ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_jobs_are_enqueued_looked_at_and_changed(on_server):
    shop = on_server.shop
    job_id = shop.json("enqueue", "note", '{"text": "hi"}')["id"]
    shop.json("enqueue", "note", '{"text": "later"}', "--delay", "1h", "--id", "later")
    listed = shop.json("jobs", "ls", "--queue", "note")["items"]
    assert {item["id"]: item["status"] for item in listed} == {job_id: "pending", "later": "scheduled"}
    assert shop.json("jobs", "show", job_id)["payload"] == {"text": "hi"}
    assert [each["code"] for each in shop.json("jobs", "explain", "later")["reasons"]] == ["run_at", "no_worker"]
    assert shop.json("jobs", "cancel", "later")["cancelled"] == ["later"]
    assert shop.json("jobs", "rm", "later", "--yes")["deleted"] == ["later"]


def test_queues_are_listed_paused_and_resumed(on_server):
    shop = on_server.shop
    shop.enqueue("note", {"text": "hi"})
    shop.json("queues", "pause", "note")
    (item,) = shop.json("queues", "ls")["items"]
    assert (item["queue"], item["state"], item["counts"]["pending"]) == ("note", "paused", 1)
    shop.json("queues", "resume", "note")
    assert shop.json("queues", "ls", "--prefix", "n")["items"][0]["state"] == "stalled"


def test_dead_jobs_are_listed_replayed_and_purged(on_server):
    shop = on_server.shop
    first, second = shop.make_dead("mail", "other")
    assert {item["id"] for item in shop.json("dead", "ls")["items"]} == {first, second}
    assert shop.json("jobs", "retry", first)["retried"] == [first]
    assert shop.json("dead", "replay", "--dry-run")["matching"] == 1
    assert shop.json("dead", "purge", "--yes")["purged"] == 1


def test_several_processes_share_the_jobs_of_a_server_and_are_seen(on_server):
    shop = on_server.shop
    supervisor = shop.start("worker", "shop:bare", "--processes", "2", "--backend", shop.url)
    supervisor.line("psyqueue worker ready", count=2)
    assert [item["state"] for item in shop.json("workers", "ls")["items"]] == ["open", "open"]
    ids = [shop.enqueue("note", {"text": str(number)}) for number in range(4)]
    for job_id in ids:
        shop.wait_for_status(job_id, "completed")
    supervisor.send(signal.SIGTERM)
    assert supervisor.end() == 0
    assert sorted(shop.notes()) == ["0", "1", "2", "3"]
    assert shop.json("workers", "ls")["items"] == []
    assert shop.json("check") == {"ok": True, "problems": [], "complete": True}


# ── the demo ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_demo_kills_a_worker_on_a_server_and_leaves_nothing_there(on_server, some_files):
    shop = on_server.shop
    answer = shop.run("demo", "--path", some_files, "--json", "--backend", shop.url, store=False)
    assert answer.code == 0, answer
    found = answer.json
    assert (found["ok"], found["processed"], found["lost"], found["run_after_ack"]) == (True, 18, 0, 0)
    assert found["reclaimed"] == len(found["held_by_killed"]) >= 1
    assert on_server.demo_store in found["store"]
    assert on_server.left() == []


def test_an_interrupted_demo_leaves_nothing_there(on_server, some_files):
    shop = on_server.shop
    running = shop.start("demo", "--path", some_files, "--backend", shop.url)
    said = running.line(rf"worker processes on {on_server.demo_says}: pids ([\d, ]+)")
    shop.pids += [int(pid) for pid in said[1].split(",")]
    running.send(signal.SIGINT)
    assert running.end() == 128 + signal.SIGINT
    assert wait_until(lambda: on_server.left() == [])


def test_a_kept_demo_can_be_looked_at(on_server, some_files, tmp_path):
    shop = on_server.shop
    answer = shop.run("demo", "--path", some_files, "--keep", "--json", "--backend", shop.url, TMPDIR=str(tmp_path))
    assert answer.code == 0, answer
    looked = shop.call("queues", "ls", "--json", "--backend", answer.json["store"], store=False)
    assert looked.json["items"][0]["counts"]["completed"] == 18
