"""The commands on a PostgreSQL server, named by `--backend` or by PSYQUEUE_URL."""

from __future__ import annotations

import asyncio
import re
import signal
from typing import Any

import asyncpg
import pytest

from support.waiting import wait_until

SECRET = "s3cr3t"
_SCHEMAS = "select nspname from pg_namespace where nspname like $1 || '%'"


@pytest.fixture
def on_postgres(shop, postgres_server, namespace):
    """The commands of one folder, on a store of its own on the server."""
    shop.url = f"{postgres_server.url}?schema={namespace}"
    return shop


def schemas_of(server: Any, prefix: str) -> list[str]:
    async def ask() -> list[str]:
        connection = await asyncpg.connect(server.url)
        try:
            return [row[0] for row in await connection.fetch(_SCHEMAS, prefix)]
        finally:
            await connection.close()

    return asyncio.run(ask())


# ── every command ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_jobs_and_queues_are_made_looked_at_and_changed(on_postgres):
    job_id = on_postgres.json("enqueue", "note", '{"text": "hi"}')["id"]
    on_postgres.json("enqueue", "note", '{"text": "later"}', "--delay", "1h", "--id", "later")
    listed = on_postgres.json("jobs", "ls", "--queue", "note")["items"]
    assert {item["id"]: item["status"] for item in listed} == {job_id: "pending", "later": "scheduled"}
    assert on_postgres.json("jobs", "show", job_id)["payload"] == {"text": "hi"}
    assert [each["code"] for each in on_postgres.json("jobs", "explain", "later")["reasons"]] == ["run_at", "no_worker"]
    assert on_postgres.json("jobs", "cancel", "later")["cancelled"] == ["later"]
    assert on_postgres.json("jobs", "rm", "later", "--yes")["deleted"] == ["later"]
    on_postgres.json("queues", "pause", "note")
    (item,) = on_postgres.json("queues", "ls")["items"]
    assert (item["queue"], item["state"], item["counts"]["pending"]) == ("note", "paused", 1)
    on_postgres.json("queues", "resume", "note")


def test_dead_jobs_are_listed_replayed_and_purged(on_postgres):
    first, second = on_postgres.make_dead("mail", "other")
    assert {item["id"] for item in on_postgres.json("dead", "ls")["items"]} == {first, second}
    assert on_postgres.json("jobs", "retry", first)["retried"] == [first]
    assert on_postgres.json("dead", "purge", "--yes")["purged"] == 1


def test_several_processes_share_the_jobs_of_a_server_and_are_seen(on_postgres):
    arguments = ("worker", "shop:bare", "--processes", "2", "--backend", on_postgres.url)
    supervisor = on_postgres.start(*arguments)
    supervisor.line("psyqueue worker ready", count=2)
    assert [item["state"] for item in on_postgres.json("workers", "ls")["items"]] == ["open", "open"]
    ids = [on_postgres.enqueue("note", {"text": str(number)}) for number in range(4)]
    for job_id in ids:
        on_postgres.wait_for_status(job_id, "completed")
    supervisor.send(signal.SIGTERM)
    assert supervisor.end() == 0
    assert sorted(on_postgres.notes()) == ["0", "1", "2", "3"]
    assert on_postgres.json("workers", "ls")["items"] == []
    assert on_postgres.json("check") == {"ok": True, "problems": [], "complete": True}


# ── the demo ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def files(tmp_path):
    made = tmp_path / "files"
    made.mkdir()
    for number in range(18):
        (made / f"module_{number}.py").write_text(f"def f{number}(): ...\n")
    return made


def test_the_demo_kills_a_worker_on_a_server_and_leaves_nothing_there(on_postgres, files, postgres_server, namespace):
    answer = on_postgres.run("demo", "--path", files, "--json", "--backend", on_postgres.url, store=False)
    assert answer.code == 0, answer
    found = answer.json
    assert (found["ok"], found["processed"], found["lost"], found["run_after_ack"]) == (True, 18, 0, 0)
    assert found["reclaimed"] == len(found["held_by_killed"]) >= 1
    assert f"schema={namespace}_psyqueue_demo_" in found["store"]
    assert schemas_of(postgres_server, namespace) == []


def test_an_interrupted_demo_leaves_no_schema(on_postgres, files, postgres_server, namespace):
    running = on_postgres.start("demo", "--path", files, "--backend", on_postgres.url)
    said = rf"worker processes on postgres .+ at \S+, schema {namespace}_psyqueue_demo_\w+: pids ([\d, ]+)"
    on_postgres.pids += [int(pid) for pid in running.line(said)[1].split(",")]
    running.send(signal.SIGINT)
    assert running.end() == 128 + signal.SIGINT
    assert wait_until(lambda: schemas_of(postgres_server, namespace) == [])


def test_a_kept_demo_can_be_looked_at(on_postgres, files, tmp_path):
    arguments = ("demo", "--path", files, "--keep", "--json", "--backend", on_postgres.url)
    answer = on_postgres.run(*arguments, TMPDIR=str(tmp_path))
    assert answer.code == 0, answer
    looked = on_postgres.call("queues", "ls", "--json", "--backend", answer.json["store"], store=False)
    assert looked.json["items"][0]["counts"]["completed"] == 18


# ── wrong addresses ───────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def guarded(own_servers):
    """host:port/database of a server that asks for passwords."""
    server = own_servers.postgres()

    async def guard() -> None:
        connection = await asyncpg.connect(server.url)
        await connection.execute(f"create role low login password '{SECRET}'")
        (server.folder / "data" / "pg_hba.conf").write_text("host all all all scram-sha-256\n")
        await connection.execute("select pg_reload_conf()")
        await connection.close()

    asyncio.run(guard())
    return re.sub(r".*@", "", server.url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://low:s3cr3t-wrong@{place}", "does not let this user in. Look at user= and password="),
        ("postgresql://nobody:s3cr3t@{place}", "does not let this user in. Look at user= and password="),
        ("postgresql://low:s3cr3t@{place}_none", "has no such database. Look at database="),
        ("postgresql://low:s3cr3t@{place}", "may not make or change the schema (permission"),
        ("postgresql://low:s3cr3t@localhost:1/postgres", "nobody listens there. Is the server running"),
        ("postgresql://low:s3cr3t@no.such.host.invalid", "the name of its host is not known"),
        ("postgresql://low:s3cr3t@{place}?schema=a-b", "option schema='a-b': is no name for a schema"),
        ("postgresql://low:s3cr3t@{place}?pasword=s3cr3t", "option pasword='***': is not an option"),
        (
            "postgresql://low:s3cr3t@{place}?statement_timeout=soon",
            "option statement_timeout='soon': is not a duration",
        ),
        ("postgres://low:#s3cr3t@{place}", "In a user name or password write it as %23"),
    ],
)
def test_an_address_that_does_not_fit_says_what_and_the_way_out(cli, guarded, url, says):
    answer = cli.call("enqueue", "note", "--backend", url.format(place=guarded), "--json", store=False)
    assert answer.code == 2, answer
    assert says in answer.err
    assert SECRET not in answer.out + answer.err
    assert answer.json["error"]["message"] in answer.err
