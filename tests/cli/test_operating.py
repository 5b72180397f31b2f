"""Looking and changing from the command line: what it answers to people, to programs, and to those who mistype."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

LISTED = ["id", "queue", "name", "status", "attempt", "priority", "created_at", "run_at"]


# ── enqueue ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_enqueue_writes_a_job_and_prints_its_id(cli):
    answer = cli.run("enqueue", "mail", '{"to": "ann", "count": [1, null]}', "--queue", "post", "--priority", "-7")
    assert (answer.code, answer.err) == (0, "")
    view = cli.show(answer.out.strip())
    assert (view["name"], view["queue"], view["priority"]) == ("mail", "post", -7)
    assert view["payload"] == {"to": "ann", "count": [1, None]}


def test_enqueue_answers_with_json(cli):
    first = cli.json("enqueue", "mail", "--id", "one")
    again = cli.json("enqueue", "mail", "--id", "one")
    assert (first, again) == ({"id": "one", "created": True}, {"id": "one", "created": False})


def test_enqueue_takes_every_option(cli):
    parent = cli.enqueue("parent")
    options = ["--id", "x", "--queue", "q", "--priority", 3, "--max-retries", 9, "--timeout", "5s", "--tenant", "acme"]
    options += ["--lane", "l", "--unique-key", "u", "--order-key", "o", "--idempotency-key", "i"]
    options += ["--depends-on", parent, "--run-at", "2031-01-01T00:00:00+01:00", "--expires", "10d"]
    assert cli.call("enqueue", "mail", "1", *options).code == 0
    view = cli.show("x")
    expected = {"queue": "q", "priority": 3, "max_retries": 9, "timeout_ms": 5_000, "tenant_id": "acme", "lane": "l"}
    expected |= {"unique_key": "u", "order_key": "o", "idempotency_key": "i", "needs": [parent], "status": "waiting"}
    assert {name: view[name] for name in expected} == expected
    assert datetime.fromisoformat(view["run_at"]) == datetime.fromisoformat("2030-12-31T23:00:00+00:00")
    assert view["expires_at"] is not None


def test_enqueue_can_be_delayed(cli):
    assert cli.call("enqueue", "mail", "--delay", "1h", "--id", "later").code == 0
    assert cli.show("later")["status"] == "scheduled"


def test_enqueue_reads_standard_input(cli):
    answer = cli.run("enqueue", "mail", "-", stdin='{"to": "bob"}')
    assert cli.show(answer.out.strip())["payload"] == {"to": "bob"}


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("mail", "hello"), 2, "PAYLOAD is not JSON"),
        (("mail", "NaN"), 2, "PAYLOAD is not JSON"),
        (("mail", "--delay", "soon"), 2, "option delay='soon': is not a duration"),
        (("mail", "--run-at", "2031-01-01T00:00"), 2, "has no time zone; write e.g. 2031-01-01T00:00Z"),
        (("mail", "--run-at", "tomorrow"), 2, "is not an ISO time"),
        (("mail", "--priority", "high"), 2, "Invalid value for '--priority'"),
        (("mail", "--depends-on", "nobody"), 1, "depends on 'nobody', which does not exist"),
        (("mail", '"' + "x" * 100 + '"', "--id", "taken"), 1, "job 'taken' exists with other content"),
        (("",), 2, "option name=''"),
        ((), 2, "Missing argument 'NAME'"),
    ],
)
def test_a_bad_enqueue_is_told_in_one_line(cli, arguments, code, told):
    cli.enqueue("mail", id="taken")
    answer = cli.call("enqueue", *arguments)
    assert answer.code == code, answer
    assert told in answer.err
    assert answer.out == ""
    assert "Traceback" not in answer.err


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_jobs_are_listed_by_filters(cli):
    first = cli.enqueue("mail", {"to": "ann"}, queue="post", tenant="acme")
    cli.enqueue("mail", {"to": "bob"}, queue="other")
    cli.enqueue("clean", queue="post", delay="1h")
    every = cli.json("jobs", "ls")
    assert list(every) == ["items", "cursor"]
    assert [list(item) for item in every["items"]] == [LISTED] * 3
    assert every["cursor"] is None

    def found(*options: str) -> int:
        return len(cli.json("jobs", "ls", *options)["items"])

    assert found("--queue", "post") == 2
    assert found("--queue", "post", "--queue", "other") == 3
    assert found("--status", "scheduled") == 1
    assert found("--name", "mail") == 2
    assert found("--text", "bob") == 1
    assert found("--created-before", "2020-01-01T00:00:00Z") == 0
    assert found("--created-after", "2020-01-01T00:00:00Z") == 3
    assert [item["id"] for item in cli.json("jobs", "ls", "--tenant", "acme")["items"]] == [first]


def test_a_long_list_is_read_page_by_page(cli):
    wanted = {cli.enqueue("mail", number) for number in range(5)}
    first = cli.json("jobs", "ls", "--limit", "3")
    assert len(first["items"]) == 3
    rest = cli.json("jobs", "ls", "--limit", "3", "--cursor", first["cursor"])
    assert {item["id"] for item in first["items"] + rest["items"]} == wanted
    assert rest["cursor"] is None
    told = cli.call("jobs", "ls", "--limit", "3")
    assert f"There are more: --cursor '{first['cursor']}'" in told.err


def test_a_table_has_a_head_and_a_line_a_job(cli):
    job_id = cli.enqueue("mail")
    lines = cli.call("jobs", "ls").out.splitlines()
    assert lines[0].split("  ")[0] == "ID"
    assert lines[0].split() == " ".join(LISTED).upper().replace("_AT", "").split()
    assert lines[1].startswith(f"{job_id}  mail   mail  pending")
    assert cli.call("jobs", "ls", "--queue", "none").out == "No job fits.\n"


def test_a_job_is_shown_with_everything(cli):
    (job_id,) = cli.make_dead("mail")
    view = cli.json("jobs", "show", job_id)
    assert (view["status"], view["reason"], view["payload"]) == ("dead", "exhausted", {"to": "ann"})
    assert view["errors"][0]["type"] == "ValueError"
    told = cli.call("jobs", "show", job_id).out
    assert "error in attempt 1: ValueError: broken" in told
    assert '{"to":"ann"}' in told


def test_text_of_a_job_cannot_steer_the_terminal(cli):
    (job_id,) = cli.make_dead("mail", text="\x1b[31mred\x07\r\n")
    told = [cli.call("jobs", "show", job_id).out, cli.call("dead", "ls").out, cli.call("jobs", "explain", job_id).out]
    assert not any(set(text) & {"\x1b", "\x07", "\r"} for text in told)
    assert all("\\x1b[31mred\\x07" in text for text in told)


def test_a_job_is_explained(cli):
    job_id = cli.enqueue("mail", delay="1h")
    found = cli.json("jobs", "explain", job_id)
    assert (found["id"], found["status"]) == (job_id, "scheduled")
    assert {reason["code"] for reason in found["reasons"]} == {"run_at", "no_worker"}
    told = cli.call("jobs", "explain", job_id).out
    assert told.startswith(f"{job_id} is scheduled:\n  it is due at ")


def test_a_dead_job_is_retried_and_others_are_refused(cli):
    (dead_id,) = cli.make_dead("mail")
    live_id = cli.enqueue("other")
    answer = cli.call("jobs", "retry", dead_id, live_id, "nobody", "--json")
    assert answer.code == 1
    assert answer.json["retried"] == [dead_id]
    assert [(item["id"], item["code"]) for item in answer.json["refused"]] == [
        (live_id, "INVALID_STATE"),
        ("nobody", "JOB_NOT_FOUND"),
    ]
    assert f"job {live_id!r} is pending, not dead" in answer.err
    assert cli.show(dead_id)["status"] == "pending"


def test_jobs_are_cancelled(cli):
    waiting, active = cli.enqueue("mail"), cli.make_active("slow")
    assert cli.call("jobs", "cancel", waiting, active).code == 0
    assert cli.show(waiting)["status"] == "cancelled"
    assert cli.show(active)["cancel_requested"] is True
    again = cli.call("jobs", "cancel", waiting)
    assert (again.code, again.out) == (1, "")
    assert f"job {waiting!r} has ended already" in again.err


def test_only_ended_jobs_are_deleted_and_only_when_told_so(cli):
    (dead_id,) = cli.make_dead("mail")
    live_id = cli.enqueue("other")
    asked = cli.call("jobs", "rm", dead_id)
    assert asked.code == 2
    assert "Give --yes to do it" in asked.err
    answer = cli.call("jobs", "rm", dead_id, live_id, "nobody", "--yes", "--json")
    assert answer.code == 1
    assert answer.json["deleted"] == [dead_id]
    assert [item["id"] for item in answer.json["refused"]] == [live_id, "nobody"]
    assert cli.call("jobs", "show", dead_id).code == 1
    assert cli.show(live_id)["status"] == "pending"


@pytest.mark.parametrize("command", ["show", "explain", "retry", "cancel"])
def test_a_job_that_is_not_there_is_a_no(cli, command):
    cli.enqueue("mail")
    answer = cli.call("jobs", command, "nobody")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "psyqueue: job 'nobody' does not exist, or its retention ended\n"


# ── queues, workers ───────────────────────────────────────────────────────────────────────────────────────────────────
def states(cli, *options: str) -> dict[str, str]:
    return {item["queue"]: item["state"] for item in cli.json("queues", "ls", *options)["items"]}


def test_queues_are_listed_with_one_word_each(cli):
    cli.enqueue("mail")
    cli.make_active("slow")
    cli.make_dead("done")
    items = {item["queue"]: item for item in cli.json("queues", "ls")["items"]}
    assert {name: item["state"] for name, item in items.items()} == {
        "mail": "stalled",
        "slow": "running",
        "done": "idle",
    }
    assert items["mail"]["counts"]["pending"] == 1
    assert items["mail"]["paused"] is False
    assert items["mail"]["oldest_pending_at"] is not None
    assert states(cli, "--prefix", "s") == {"slow": "running"}
    head = cli.call("queues", "ls").out.splitlines()[0].split()
    assert head == ["QUEUE", "STATE", "WAITING", "SCHEDULED", "PENDING", "ACTIVE", "COMPLETED", "DEAD", "CANCELLED"]


def test_a_queue_is_paused_and_resumed(cli):
    cli.enqueue("mail")
    assert cli.json("queues", "pause", "mail") == {"queue": "mail", "paused": True}
    assert states(cli) == {"mail": "paused"}
    assert cli.call("queues", "resume", "mail").out == "queue mail is no longer paused\n"
    assert states(cli) == {"mail": "stalled"}
    assert cli.call("queues", "pause", "mail", "--until", "2031-01-01T00:00:00Z").code == 0
    (item,) = cli.json("queues", "ls")["items"]
    assert item["paused_until"].startswith("2031-01-01T00:00:00")
    assert cli.call("queues", "pause", "mail", "--until", "2020-01-01T00:00:00Z").code == 0
    assert states(cli) == {"mail": "stalled"}, "a pause until then is over"


def test_workers_are_listed(cli):
    cli.make_active("slow")
    (item,) = cli.json("workers", "ls")["items"]
    assert (item["worker"], item["queues"], item["held"], item["state"]) == ("w", ["slow"], 1, "open")
    assert item["lease_ms"] == 60_000
    assert cli.call("workers", "ls").out.splitlines()[1].split()[:5] == ["w", "open", "1", "-", "slow"]


# ── dead letters ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_dead_jobs_are_listed_with_their_error(cli):
    ids = cli.make_dead("mail", "other")
    found = cli.json("dead", "ls")
    assert {item["id"] for item in found["items"]} == set(ids)
    assert found["items"][0]["last_error"] == "ValueError: broken"
    assert [item["queue"] for item in cli.json("dead", "ls", "--queue", "other")["items"]] == ["other"]
    assert len(cli.json("dead", "ls", "--name", "mail")["items"]) == 1
    assert "ValueError: broken" in cli.call("dead", "ls").out


def test_dead_jobs_are_replayed(cli):
    cli.make_dead("mail", "other")
    assert cli.json("dead", "replay", "--queue", "mail", "--dry-run") == {"dry_run": True, "matching": 1}
    assert cli.call("dead", "replay").code == 2, "nobody is there to ask"
    assert cli.json("dead", "replay", "--queue", "mail", "--yes") == {"dry_run": False, "replayed": 1, "skipped": 0}
    assert cli.call("dead", "replay", "--yes").out == "1 job run again\n"
    assert cli.json("dead", "ls")["items"] == []


def test_dead_jobs_are_purged(cli):
    cli.make_dead("mail", "other")
    assert cli.json("dead", "purge", "--before", "2020-01-01T00:00:00Z", "--yes")["purged"] == 0
    assert cli.call("dead", "purge", "--dry-run").out == "2 jobs would be deleted\n"
    assert cli.json("dead", "purge", "--before", "2020-01-01T00:00:00Z", "--dry-run")["matching"] == 0
    assert cli.call("dead", "purge").code == 2
    assert cli.json("dead", "purge", "--name", "mail", "--yes")["purged"] == 1
    assert cli.json("dead", "purge", "--yes")["purged"] == 1
    assert cli.json("jobs", "ls")["items"] == []


def test_a_person_who_says_no_is_obeyed(cli):
    cli.make_dead("mail")
    code, said = cli.in_terminal("dead", "purge", "--backend", cli.url, answer="n\n")
    assert code == 1
    assert "Delete 1 job for good? [y/N]" in said
    assert "nothing was done" in said
    assert len(cli.json("dead", "ls")["items"]) == 1
    code, said = cli.in_terminal("dead", "purge", "--backend", cli.url, answer="y\n")
    assert (code, "1 job deleted" in said) == (0, True)


# ── check, durability ─────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_whole_store_is_found_whole(cli):
    cli.enqueue("mail")
    assert cli.json("check") == {"ok": True, "problems": [], "complete": True}
    assert cli.call("check").out == "The store is whole.\n"


def test_a_broken_promise_is_a_no(cli):
    job_id = cli.enqueue("mail")
    connection = sqlite3.connect(cli.folder / "jobs.db")
    with connection:
        connection.execute("UPDATE psyqueue_job SET fence = -5")
    connection.close()
    answer = cli.call("check", "--json")
    assert answer.code == 1, answer
    assert answer.json["ok"] is False
    assert any(job_id in problem for problem in answer.json["problems"])


def test_durability_is_told(cli):
    cli.enqueue("mail")
    found = cli.json("durability")
    assert (found["store"], found["process_crash"], found["power_loss"]) == ("sqlite", "safe", "safe")
    assert "power loss     safe" in cli.call("durability").out
    weaker = cli.call("durability", "--backend", f"{cli.url}?durability=normal", "--json").json
    assert weaker["power_loss"] != "safe"


# ── the store ─────────────────────────────────────────────────────────────────────────────────────────────────────────
READERS: list[tuple[Any, ...]] = [
    ("jobs", "ls"),
    ("jobs", "show", "x"),
    ("jobs", "explain", "x"),
    ("jobs", "retry", "x"),
    ("jobs", "cancel", "x"),
    ("jobs", "rm", "x", "--yes"),
    ("queues", "ls"),
    ("queues", "pause", "x"),
    ("queues", "resume", "x"),
    ("dead", "ls"),
    ("dead", "groups"),
    ("dead", "replay", "--yes"),
    ("dead", "purge", "--yes"),
    ("workers", "ls"),
    ("check",),
    ("durability",),
    ("doctor",),
]


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_only_an_enqueue_creates_a_store(cli, command):
    answer = cli.call(*command)
    assert answer.code == 2, answer
    assert "there is no such file" in answer.err
    assert list(cli.folder.iterdir()) == []


@pytest.mark.parametrize("command", [("jobs", "ls"), ("doctor",)], ids=" ".join)
def test_the_database_of_another_program_is_left_alone(cli, command):
    file = cli.folder / "jobs.db"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = file.read_bytes()
    answer = cli.call(*command)
    assert answer.code == 2, answer
    assert "holds no psyqueue store" in answer.err
    assert file.read_bytes() == before
    assert [path.name for path in cli.folder.iterdir()] == ["jobs.db"]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (None, "no store named. Give --backend URL or set PSYQUEUE_URL"),
        ("nonsense", "'nonsense' is no address of a store"),
        ("mysql://host/db", "no backend for 'mysql://host/db'"),
        ("redis://:secret@host/0?x", "are not written as ?option=value"),
        ("sqlite:jobs.db?speed=high", "option speed='high': is not an option of the sqlite backend"),
    ],
)
def test_a_store_that_cannot_be_meant_is_told(cli, url, told):
    answer = cli.call("jobs", "ls", *(() if url is None else ("--backend", url)), store=False)
    assert answer.code == 2, answer
    assert told in answer.err
    assert "Traceback" not in answer.err
    assert "secret" not in answer.err


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/db"])
def test_who_named_a_store_that_cannot_be_meant_is_told(cli, url):
    cli.url = url
    assert "PSYQUEUE_URL says so" in cli.call("jobs", "ls").err
    assert "PSYQUEUE_URL" not in cli.call("jobs", "ls", "--backend", url).err


def test_options_may_stand_before_and_after_the_command(cli):
    cli.enqueue("mail")
    outer = cli.call("--backend", cli.url, "--json", "queues", "ls", store=False)
    inner = cli.call("queues", "ls", "--backend", cli.url, "--json", store=False)
    assert outer.code == inner.code == 0
    assert outer.json == inner.json
    nearer = cli.call("--backend", "sqlite:none.db", "queues", "ls", "--backend", cli.url, "--json", store=True)
    assert nearer.json == inner.json, "what stands nearer to the command counts"


def test_errors_are_one_document_with_json_and_always_a_line(cli):
    cli.enqueue("mail")
    answer = cli.run("jobs", "show", "nobody", "--json")
    assert answer.code == 1
    assert answer.json == {
        "error": {"code": "JOB_NOT_FOUND", "message": "job 'nobody' does not exist, or its retention ended"}
    }
    assert answer.err == "psyqueue: job 'nobody' does not exist, or its retention ended\n"
    misused = cli.run("jobs", "show", "--json")
    assert (misused.code, misused.json["error"]["code"]) == (2, "WRONG_USE")


def test_help_and_version_are_there(cli):
    assert cli.run("--version").out.startswith("psyqueue ")
    bare = cli.run()
    assert bare.code == 2
    assert "Commands:" in bare.err
    assert cli.run("-h").out == cli.run("--help").out
    assert cli.run("nonsense").code == 2


def test_a_reader_that_goes_away_is_no_error(cli):
    for number in range(3):
        cli.enqueue("mail", "x" * 100_000 + str(number))
    shell = f"{sys.executable} -m psyqueue jobs ls --json | head -c 1 > first"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell],
        cwd=cli.folder,
        env={**cli.environment, "PSYQUEUE_URL": cli.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert json.loads((cli.folder / "first").read_text() + "}") == {}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file that takes nothing is needed")
def test_an_output_that_takes_nothing_is_told_in_one_line(cli):
    cli.enqueue("mail", 1)
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m psyqueue jobs ls > /dev/full"],
        cwd=cli.folder,
        env={**cli.environment, "PSYQUEUE_URL": cli.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 70
    assert done.stderr.splitlines() == [
        "psyqueue: what it has to say cannot be written: No space left on device. Free some room, and look again"
    ]


# ── plugins ───────────────────────────────────────────────────────────────────────────────────────────────────────────
PLUGIN = """
import click

class Greeter:
    name = "greeter"
    def init(self, kernel):
        @click.command("greet")
        @click.argument("who")
        def greet(who):
            "Say hello."
            click.echo(f"hello {who}")
        kernel.command(greet)

class Clumsy:
    name = "clumsy"
    def init(self, kernel):
        kernel.command(click.Command("stumble", callback=lambda: 1 / 0))

class Usurper:
    name = "usurper"
    def init(self, kernel):
        kernel.command(click.Command("jobs", callback=lambda: click.echo("mine")))

def broken():
    raise RuntimeError("no licence")
"""


@pytest.fixture
def plugged(cli):
    """Installed plugins: one adds a command, one a bad command, one takes an old name, one is broken."""
    (cli.folder / "extra.py").write_text(PLUGIN)
    info = cli.folder / "extra-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
    lines = [
        "[psyqueue.plugins]",
        "greeter = extra:Greeter",
        "usurper = extra:Usurper",
        "clumsy = extra:Clumsy",
        "broken = extra:broken",
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    cli.environment["PYTHONPATH"] = str(cli.folder)
    return cli


def test_a_plugin_adds_a_command(plugged):
    answer = plugged.run("greet", "ann")
    assert (answer.code, answer.out) == (0, "hello ann\n")
    assert "Say hello." in plugged.run("--help").out


def test_a_defect_is_shown_whole_and_is_no_answer(plugged):
    answer = plugged.run("stumble")
    assert answer.code == 70
    assert "ZeroDivisionError" in answer.err


def test_a_broken_plugin_costs_nobody_else_anything(plugged):
    assert "plugin 'broken' (extra:broken) is left out: RuntimeError: no licence" in plugged.run("greet", "ann").err
    assert plugged.run("jobs", "--help").out.startswith("Usage: psyqueue jobs"), "our commands keep their names"
    plugged.enqueue("mail")
    assert plugged.run("queues", "ls").err == "", "and are found without loading any plugin"
