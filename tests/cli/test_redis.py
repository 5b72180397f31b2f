"""Every command on a Redis or Valkey server, named by `--backend` or by PSYQUEUE_URL."""

from __future__ import annotations

import json
import signal
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from support.waiting import wait_until

SECRET = "s3cr3t"


@pytest.fixture
def on_redis(shop, redis_server, namespace):
    """The commands of one folder, on a store of its own on the server."""
    shop.url = f"{redis_server.url}?key_prefix={namespace}:"
    return shop


def keys_of(server: Any, pattern: str) -> list[str]:
    with redis.Redis.from_url(server.url) as client:
        return [key.decode() for key in client.keys(pattern)]


# ── every command ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_jobs_are_enqueued_looked_at_and_changed(on_redis):
    job_id = on_redis.json("enqueue", "note", '{"text": "hi"}')["id"]
    on_redis.json("enqueue", "note", '{"text": "later"}', "--delay", "1h", "--id", "later")
    listed = on_redis.json("jobs", "ls", "--queue", "note")["items"]
    assert {item["id"]: item["status"] for item in listed} == {job_id: "pending", "later": "scheduled"}
    assert on_redis.json("jobs", "show", job_id)["payload"] == {"text": "hi"}
    assert [each["code"] for each in on_redis.json("jobs", "explain", "later")["reasons"]] == ["run_at", "no_worker"]
    assert on_redis.json("jobs", "cancel", "later")["cancelled"] == ["later"]
    assert on_redis.json("jobs", "rm", "later", "--yes")["deleted"] == ["later"]


def test_queues_are_listed_paused_and_resumed(on_redis):
    on_redis.enqueue("note", {"text": "hi"})
    on_redis.json("queues", "pause", "note")
    (item,) = on_redis.json("queues", "ls")["items"]
    assert (item["queue"], item["state"], item["counts"]["pending"]) == ("note", "paused", 1)
    on_redis.json("queues", "resume", "note")
    assert on_redis.json("queues", "ls", "--prefix", "n")["items"][0]["state"] == "stalled"


def test_dead_jobs_are_listed_replayed_and_purged(on_redis):
    first, second = on_redis.make_dead("mail", "other")
    assert {item["id"] for item in on_redis.json("dead", "ls")["items"]} == {first, second}
    assert on_redis.json("jobs", "retry", first)["retried"] == [first]
    assert on_redis.json("dead", "replay", "--dry-run")["matching"] == 1
    assert on_redis.json("dead", "purge", "--yes")["purged"] == 1


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


def test_several_processes_share_the_jobs_of_a_server(on_redis):
    arguments = ("worker", "shop:bare", "--processes", "2", "--backend", on_redis.url)
    supervisor = on_redis.start(*arguments)
    supervisor.line("psyqueue worker ready", count=2)
    ids = [on_redis.enqueue("note", {"text": str(number)}) for number in range(4)]
    for job_id in ids:
        on_redis.wait_for_status(job_id, "completed")
    supervisor.send(signal.SIGTERM)
    assert supervisor.end() == 0
    assert sorted(on_redis.notes()) == ["0", "1", "2", "3"]


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
@pytest.fixture
def files(tmp_path):
    made = tmp_path / "files"
    made.mkdir()
    for number in range(18):
        (made / f"module_{number}.py").write_text(f"def f{number}(): ...\n")
    return made


def test_the_demo_kills_a_worker_on_a_server_and_leaves_nothing_there(on_redis, files, redis_server, namespace):
    answer = on_redis.run("demo", "--path", files, "--json", "--backend", on_redis.url, store=False)
    assert answer.code == 0, answer
    found = answer.json
    assert (found["ok"], found["processed"], found["lost"], found["run_after_ack"]) == (True, 18, 0, 0)
    assert found["reclaimed"] == len(found["held_by_killed"]) >= 1
    assert f"key_prefix={namespace}:psyqueue-demo-" in found["store"]
    assert keys_of(redis_server, f"{namespace}:*") == []


def test_the_demo_leaves_the_store_of_the_environment_alone(on_redis, files, redis_server, namespace):
    answer = on_redis.run("demo", "--path", files, "--json", store=True)
    assert answer.code == 0, answer
    assert answer.json["store"].startswith("sqlite:")
    assert keys_of(redis_server, f"{namespace}:*") == []


def test_an_interrupted_demo_leaves_no_keys(on_redis, files, redis_server, namespace):
    running = on_redis.start("demo", "--path", files, "--backend", on_redis.url)
    pids = running.line(rf"worker processes on \w+ [\d.]+ at \S+, keys {namespace}:psyqueue-demo-\w+:…: pids ([\d, ]+)")
    on_redis.pids += [int(pid) for pid in pids[1].split(",")]
    running.send(signal.SIGINT)
    assert running.end() == 128 + signal.SIGINT
    assert wait_until(lambda: keys_of(redis_server, f"{namespace}:*") == [])


def test_a_kept_demo_can_be_looked_at(on_redis, files, tmp_path):
    answer = on_redis.run("demo", "--path", files, "--keep", "--json", "--backend", on_redis.url, TMPDIR=str(tmp_path))
    assert answer.code == 0, answer
    looked = on_redis.call("queues", "ls", "--json", "--backend", answer.json["store"], store=False)
    assert looked.json["items"][0]["counts"]["completed"] == 18


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
