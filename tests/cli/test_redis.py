"""What the commands do on a Redis or Valkey server alone; what they do on every server: test_on_servers.py."""

from __future__ import annotations

import json
import signal
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

SECRET = "s3cr3t"


@pytest.fixture
def on_redis(shop, redis_server, namespace):
    """The commands of one folder, on a store of its own on the server."""
    shop.url = f"{redis_server.url}?key_prefix={namespace}:"
    return shop


def keys_of(server: Any, pattern: str) -> list[str]:
    with redis.Redis.from_url(server.url) as client:
        return [key.decode() for key in client.keys(pattern)]


def test_a_worker_runs_jobs_of_a_server_and_is_seen(on_redis):
    worker = on_redis.start("worker", "shop:bare", "--name", "till", store=True)
    worker.line("psyqueue worker ready")
    job_id = on_redis.json("enqueue", "note", '{"text": "hello"}')["id"]
    assert on_redis.wait_for_status(job_id, "completed")["result"] == "HELLO"
    (item,) = on_redis.json("workers", "ls")["items"]
    assert (item["worker"], item["state"], item["queues"]) == ("till", "open", ["note"])
    worker.send(signal.SIGTERM)
    assert worker.end() == 0
    assert on_redis.json("workers", "ls")["items"] == []
    assert on_redis.json("check") == {"ok": True, "problems": [], "complete": True}


def test_durability_is_the_servers(on_redis):
    on_redis.enqueue("note")
    found = on_redis.json("durability")
    assert found["process_crash"] == "safe"
    assert (found["server_crash"], found["power_loss"], found["failover"]) == ("lost", "lost", "lost")
    assert any("saves nothing" in text for text in found["warnings"])


# ── nothing is made by looking ────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "command", ["queues ls", "jobs ls", "jobs show x", "dead ls", "workers ls", "durability", "check", "queues pause x"]
)
def test_a_command_that_looks_makes_no_store(on_redis, redis_server, namespace, command):
    answer = on_redis.call(*command.split())
    assert answer.code == 2, answer
    assert f"holds no psyqueue store with key_prefix '{namespace}:' in database 0" in answer.err
    assert keys_of(redis_server, f"{namespace}:*") == []


# ── the demo ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_demo_leaves_the_store_of_the_environment_alone(on_redis, some_files, redis_server, namespace):
    answer = on_redis.run("demo", "--path", some_files, "--json", store=True)
    assert answer.code == 0, answer
    assert answer.json["store"].startswith("sqlite:")
    assert keys_of(redis_server, f"{namespace}:*") == []


@pytest.mark.parametrize("url", ["memory:", "sqlite:./jobs.db"])
def test_the_demo_refuses_a_store_that_it_cannot_have_for_itself(on_redis, url):
    answer = on_redis.call("demo", "--backend", url, store=False)
    assert answer.code == 2, answer
    assert "Leave --backend out for SQLite, or name a server" in answer.err
    assert not (on_redis.folder / "jobs.db").exists()


# ── wrong addresses ───────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def guarded(own_servers):
    """A server with a password; redis://:s3cr3t@… is let in."""
    server = own_servers.redis()
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", SECRET)
    return urlsplit(server.url).netloc


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://{place}", "wants a password. Give password="),
        ("redis://:s3cr3t-wrong@{place}", "refuses this user and password"),
        ("redis://nobody:s3cr3t@{place}", "refuses this user and password"),
        ("redis://:s3cr3t@{place}/99", "has no such database. Look at db="),
        ("redis://:s3cr3t@{place}/two", "names the database 'two', which is not a number"),
        ("redis://:s3cr3t@{place}?db=two", "option db='two'"),
        ("redys://:s3cr3t@{place}", "no backend for 'redys://:***@"),
        ("rediss://:s3cr3t@{place}?connect_timeout=1s", "whether this port speaks TLS"),
        ("redis://:s3cr3t@localhost:1", "nobody listens there. Is the server running"),
        ("redis://:s3cr3t@no.such.host.invalid", "the name of its host is not known"),
        ("unix:///no/such.sock?password=s3cr3t", "there is no such socket"),
        ("redis://:s3cr3t@{place}?key_prefix={{a}}:", "option key_prefix='{a}:': holds a character"),
        ("redis://:s3cr3t@{place}?keyPrefix=a", "There are host, port, username, password, db, key_prefix"),
        ("redis://:s3cr3t@{place}?pasword=s3cr3t", "option pasword='***': is not an option"),
        ("redis://:s3cr3t@{place}?timeout=soon", "option timeout='soon': is not a duration"),
        ("redis://:#s3cr3t@{place}", "write it as %23"),
        ("redis://:?s3cr3t@{place}", "write it as %3F"),
    ],
)
def test_an_address_that_does_not_fit_says_what_and_the_way_out(cli, guarded, url, says):
    answer = cli.call("queues", "ls", "--backend", url.format(place=guarded), "--json", store=False)
    assert answer.code == 2, answer
    assert says in answer.err
    assert SECRET not in answer.out + answer.err
    assert answer.json["error"]["message"] in answer.err


def test_a_password_in_the_address_lets_in_and_is_never_shown(cli, guarded):
    cli.url = f"redis://:{SECRET}@{guarded}"
    assert cli.call("enqueue", "note").code == 0
    for command in ("doctor", "durability", "queues ls"):
        answer = cli.call(*command.split(), "--json")
        assert SECRET not in answer.out + answer.err
        assert json.loads(answer.out)


def test_a_password_that_the_server_does_not_have_is_said_to_be_too_much(cli, redis_server):
    place = urlsplit(redis_server.url).netloc
    answer = cli.call("enqueue", "note", "--backend", f"redis://:{SECRET}@{place}", store=False)
    assert answer.code == 2
    assert "has no password, but one was given. Leave password= out" in answer.err
    assert SECRET not in answer.err
