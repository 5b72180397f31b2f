"""`--app module:queue`: the store of an application, looked at without starting anything of it. On every store."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
import pytest

from psyqueue import PsyQueue
from psyqueue.backend import Op as StoreOp
from psyqueue.backend import Session
from psyqueue.backends import BackendPlugin, memory
from psyqueue.cli.existing import as_it_is
from psyqueue.cli.kinds import kind_of
from psyqueue.cli.main import cli as root
from psyqueue.ids import new_token
from support.commands import commands

APPLICATION = """
from psyqueue import PsyQueue

print("imported, and says so")

def note(text):
    with open("started", "a") as notes:
        notes.write(f"{{text}}\\n")

class Busy:
    name = "busy"
    def init(self, kernel):
        kernel.service(self.run)
        kernel.wrap_backend(self.wrap)
    def start(self):
        note("plugin")
    async def run(self):
        note("service")
    def wrap(self, adapter):
        note("wrapper")
        return adapter

q = PsyQueue.from_url({url!r}).use(Busy())
bare = PsyQueue()
in_memory = PsyQueue.from_url("memory:")
in_sqlite_memory = PsyQueue.from_url("sqlite::memory:")
number = 5

@q.lifespan
async def lifespan():
    note("lifespan")
    yield

async def noting(ctx, call_next):
    note("middleware")
    return await call_next()

q.pipeline("enqueue", noting)

@q.handle("mail", aliases=["post"])
async def send(to: str = "") -> None: ...

@q.handle("report", queue="reports")
async def report() -> None: ...

bare.handle("mail", send.fn)
"""

WITH_APP = {
    "jobs ls",
    "jobs show",
    "jobs explain",
    "jobs retry",
    "jobs cancel",
    "jobs rm",
    "jobs tail",
    "queues ls",
    "queues pause",
    "queues resume",
    "queues limits",
    "dead ls",
    "dead groups",
    "dead replay",
    "dead purge",
    "schedules ls",
    "schedules show",
    "schedules pause",
    "schedules resume",
    "schedules run",
    "schedules rm",
    "schedules backfill",
    "circuits ls",
    "circuits open",
    "circuits close",
    "tenants ls",
    "tenants show",
    "tenants assign",
    "tenants unassign",
    "tenants tiers",
    "workers ls",
    "workers drain",
    "workers stop",
    "doctor",
    "durability",
    "check",
    "top",
    "metrics",
    "workflows show",
    "workflows cancel",
    "workflows resume",
}


class Application:
    """`module`: its name, one for each test, since this process imports it."""

    def __init__(self, cli: Any) -> None:
        self.cli = cli
        self.module = f"application_{new_token()[:12].replace('-', '_')}"
        self.target = f"{self.module}:q"
        (cli.folder / f"{self.module}.py").write_text(APPLICATION.format(url=cli.url))

    def call(self, *arguments: object, queue: str = "q") -> Any:
        sys.modules.pop(self.module, None)  # each command is a process of its own
        return self.cli.call(*arguments, "--app", f"{self.module}:{queue}", store=False)

    def json(self, *arguments: object) -> Any:
        answer = self.call(*arguments, "--json")
        assert answer.code == 0, answer
        return answer.json

    @property
    def has_started(self) -> bool:
        return "started" in {path.name for path in self.cli.folder.iterdir()}


@pytest.fixture
def app(stored, monkeypatch):
    """An application on a store of each kind, whose plugin leaves a trace if anything of it is started."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = Application(stored)
    yield made
    sys.modules.pop(made.module, None)


@pytest.fixture
def local(cli, monkeypatch):
    """The same on an SQLite file, for what has nothing to do with the store."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = Application(cli)
    yield made
    sys.modules.pop(made.module, None)


# ── the same answers as from the address ──────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "command",
    [
        "jobs ls",
        "jobs show one",
        "queues ls",
        "queues limits mail",
        "dead ls",
        "dead groups",
        "workers ls",
        "durability",
        "check",
    ],
)
def test_a_look_from_the_application_is_that_from_its_address(app, command):
    app.cli.enqueue("mail", id="one")
    words = command.split()
    assert app.json(*words) == app.cli.json(*words)
    assert not app.has_started


def test_what_operates_does_so_on_the_store_of_the_application(app):
    (died,) = app.cli.make_dead("mail")
    job_id = app.cli.enqueue("mail")
    assert app.json("queues", "pause", "mail") == {"queue": "mail", "paused": True}
    assert app.json("queues", "resume", "mail") == {"queue": "mail", "paused": False}
    assert app.json("queues", "limits", "mail", "--active-max", "3")["active_max"] == 3
    assert app.json("dead", "replay", "--yes")["replayed"] == 1
    assert app.json("jobs", "cancel", job_id, died)["cancelled"] == [job_id, died]
    assert app.json("jobs", "rm", job_id, "--yes")["deleted"] == [job_id]
    assert app.cli.json("queues", "limits", "mail")["active_max"] == 3
    assert [item["id"] for item in app.cli.json("jobs", "ls")["items"]] == [died]
    assert app.call("jobs", "tail", died, "--json").code == 1, "it was cancelled"
    assert [line["queue"] for line in app.json("top")["queues"]] == ["mail"]
    assert not app.has_started


def test_workers_are_told_from_the_application(app):
    app.cli.make_active("mail")
    assert app.json("workers", "drain", "w", "--yes")["workers"][0]["held"] == 1
    assert app.json("workers", "stop", "w", "--dry-run")["dry_run"] is True
    assert app.cli.json("workers", "ls")["items"][0]["state"] == "draining"


def test_the_doctor_looks_at_the_store_of_the_application(app):
    app.cli.make_active("mail")
    answer, usual = (json.loads(each.out) for each in (app.call("doctor", "--json"), app.cli.call("doctor", "--json")))
    names = [each["name"] for each in answer["checks"]]
    assert [name for name in names if name != "application handlers"] == [each["name"] for each in usual["checks"]]
    assert "application handlers" in names
    assert not app.has_started


def test_no_store_is_made(app):
    """Where there is none: the application would make one when it starts."""
    for words in (["jobs", "ls"], ["queues", "pause", "mail"], ["check"]):
        answer = app.call(*words)
        assert (answer.code, answer.out) == (2, ""), answer
        assert answer.err.splitlines()[-1].startswith("psyqueue: ")
    kept = {path.name for path in app.cli.folder.iterdir()} - {"__pycache__"}
    assert kept == {f"{app.module}.py"}
    assert app.cli.call("jobs", "ls").code == 2, "it is still not there"


# ── what only an application can tell ─────────────────────────────────────────────────────────────────────────────────
def reasons(app: Application, job_id: str) -> dict[str, str]:
    return {each["code"]: each["text"] for each in app.json("jobs", "explain", job_id)["reasons"]}


def test_explain_says_what_the_application_would_do(local):
    known, alias = local.cli.enqueue("mail"), local.cli.enqueue("post", queue="letters, and cards")
    strange = local.cli.enqueue("fax")
    start = f"psyqueue worker {local.target}"
    assert reasons(local, known)["startable"] == f"{local.target} has its handler: `{start}` runs it"
    assert f"`{start} --queues 'letters, and cards'` runs it" in reasons(local, alias)["startable"]
    found = reasons(local, strange)
    assert found["no_handler"].startswith(f"{local.target} has no handler 'fax'")
    assert "startable" not in found
    assert "no_handler" in local.call("jobs", "explain", strange, "--json").out
    assert f"{local.target} has no handler 'fax'" in local.call("jobs", "explain", strange).out


def test_explain_says_nothing_of_handlers_where_it_does_not_matter(local):
    (died,) = local.cli.make_dead("fax")
    assert list(reasons(local, died)) == ["dead:exhausted"]
    running = local.cli.make_active("fax")
    assert set(reasons(local, running)) == {"active", "leased"}
    assert "no_handler" not in local.cli.call("jobs", "explain", local.cli.enqueue("fax")).out


def nobodys(app: Application) -> dict[str, Any]:
    answer = app.call("doctor", "--json")
    (found,) = (each for each in answer.json["checks"] if each["name"] == "application handlers")
    return dict(found)


def test_the_doctor_finds_jobs_that_nobody_has_a_handler_for(local):
    local.cli.enqueue("mail")
    local.cli.enqueue("post")
    assert nobodys(local)["ok"] is True
    local.cli.enqueue("fax")
    local.cli.enqueue("telex", delay="1h")
    found = nobodys(local)
    assert (found["ok"], found["detail"]) == (False, "fax (1), telex (1)")
    assert local.target in found["advice"]


def test_what_a_worker_of_another_application_knows_is_not_nobodys(local):
    local.cli.enqueue("fax")
    assert nobodys(local)["ok"] is False

    async def work(queue: PsyQueue) -> None:
        session = new_token()
        await queue.get_exposed("backend").open_session(
            StoreOp(session, 1, 1), Session(id=session, worker="theirs", queues=("fax",), lease_ms=60_000)
        )

    local.cli.with_queue(work)
    assert nobodys(local)["ok"] is True, "it does not say what it knows"


# ── as the application does it ────────────────────────────────────────────────────────────────────────────────────────
def test_a_job_goes_in_as_the_application_would_put_it(app):
    job_id = app.json("enqueue", "report")["id"]
    post_id = app.json("enqueue", "post", '{"to": "ann"}', "--max-retries", "7")["id"]
    report, mail = (app.cli.json("jobs", "show", each) for each in (job_id, post_id))
    assert (report["queue"], report["name"]) == ("reports", "report")
    assert (mail["queue"], mail["name"], mail["payload"]) == ("mail", "mail", {"to": "ann"})
    assert mail["max_retries"] == 7
    assert app.has_started
    notes = (app.cli.folder / "started").read_text().split()
    assert "plugin" in notes, "the application is there as a whole"
    assert "middleware" in notes
    assert "lifespan" not in notes, "that is for who runs jobs"


def test_a_payload_that_its_handler_does_not_take_is_refused(local):
    answer = local.call("enqueue", "mail", '{"who": "ann"}')
    assert (answer.code, answer.out) == (2, ""), answer
    assert "who" in answer.err
    assert "Traceback" not in answer.err
    assert local.cli.json("jobs", "ls")["items"] == []


def test_a_name_that_the_application_does_not_know_is_told_and_enqueued(local):
    answer = local.call("enqueue", "maill")
    assert answer.code == 0
    assert f"{local.target} has no handler for 'maill'; did you mean 'mail'?" in answer.err
    assert local.cli.json("jobs", "show", answer.out.strip())["queue"] == "maill"
    assert "has no handler" not in local.call("enqueue", "post").err


# ── which commands, and what else names a store ───────────────────────────────────────────────────────────────────────
def test_what_looks_or_operates_takes_an_application_and_nothing_else_does(local):
    taking = {
        name.removeprefix("psyqueue ")
        for name, command in commands(root)
        if not isinstance(command, click.Group) and any("--app" in item.opts for item in command.params)
    }
    assert taking == {*WITH_APP, "enqueue", "dashboard"}
    for words in (["worker", local.target], ["schema", "status"], ["demo"], ["migrate"]):
        answer = local.cli.call("--app", local.target, *words, store=False)
        assert (answer.code, answer.out) == (2, ""), answer
        assert "--app is for commands that look at a store or change what is in it" in answer.err


def test_the_application_may_stand_before_the_command(local):
    local.cli.enqueue("mail", id="one")
    before = local.cli.call("--app", local.target, "jobs", "ls", "--json", store=False)
    assert [item["id"] for item in before.json["items"]] == ["one"]
    nearer = local.cli.call("--app", "nonsense", "jobs", "ls", "--app", local.target, "--json", store=False)
    assert nearer.json == before.json


def test_its_own_store_wins_over_what_is_set(local):
    local.cli.enqueue("mail", id="one")
    local.cli.url = f"sqlite:{local.cli.folder}/other.db"
    answer = local.cli.call("jobs", "ls", "--app", local.target, "--json")
    assert [item["id"] for item in answer.json["items"]] == ["one"]


def test_an_application_without_a_store_gets_the_one_that_is_named(local):
    local.cli.enqueue("mail", id="one")
    answer = local.cli.call("jobs", "explain", "one", "--app", f"{local.module}:bare", "--json")
    assert "startable" in {each["code"] for each in answer.json["reasons"]}
    given = local.call("jobs", "ls", "--json", "--backend", local.cli.url, queue="bare")
    assert [item["id"] for item in given.json["items"]] == ["one"]
    names = [
        each["name"] for each in local.call("doctor", "--json", "--backend", local.cli.url, queue="bare").json["checks"]
    ]
    assert "application handlers" in names


@pytest.mark.parametrize(
    ("app_name", "more", "told"),
    [
        ("{module}", [], "does not name a queue; write module:queue, e.g. 'shop.jobs:q'"),
        ("nowhere_at_all:q", [], "no module 'nowhere_at_all' in "),
        ("{module}:p", [], "has no 'p'; it holds {module}:bare, {module}:in_memory, {module}:in_sqlite_memory"),
        ("{module}:number", [], "is int, not a PsyQueue"),
        ("{module}:in_memory", [], "{module}:in_memory keeps its jobs in its own memory"),
        ("{module}:in_sqlite_memory", [], "{module}:in_sqlite_memory keeps its jobs in its own memory"),
        ("{module}:bare", [], "{module}:bare has no store: use() one there, or"),
        ("{module}:q", ["--backend", "sqlite:other.db"], "{module}:q brings a store of its own; leave --backend out"),
    ],
)
@pytest.mark.parametrize(
    "words", [["jobs", "ls"], ["doctor"], ["jobs", "explain", "one"], ["enqueue", "mail"]], ids=" ".join
)
def test_an_application_that_cannot_be_meant_is_told_in_one_line(local, app_name, more, told, words):
    answer = local.cli.call(*words, "--app", app_name.format(module=local.module), *more, store=False)
    assert (answer.code, answer.out) == (2, ""), answer
    said = [line for line in answer.err.splitlines() if line != "imported, and says so"]
    assert len(said) == 1, answer
    assert said[0].startswith("psyqueue: ")
    assert told.format(module=local.module) in said[0]


def test_a_module_that_fails_is_told_with_its_place(local):
    (local.cli.folder / f"{local.module}.py").write_text("x = 1\nx / 0\n")
    answer = local.call("jobs", "ls")
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert "cannot be imported: ZeroDivisionError" in answer.err
    assert f"{local.module}.py, line 2)" in answer.err


# ── once more ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_store_of_ours_is_opened_apart_and_makes_no_schema():
    for url in ("sqlite:./jobs.db", "redis://localhost/3", "postgresql://localhost/shop?max_size=3"):
        backend = PsyQueue.from_url(url).get_exposed("backend")
        again: Any = as_it_is(backend)
        assert again is not backend
        assert kind_of(again) == kind_of(backend)
        assert again.options.schema_policy == "require" if "postgres" in url else again.options == backend.options


def test_a_store_of_another_package_is_opened_itself():
    class Theirs:
        pass

    theirs: Any = Theirs()
    assert as_it_is(theirs) is theirs
    assert kind_of(theirs) == Theirs.__module__.partition(".")[0]


def test_a_class_made_of_ours_is_of_our_kind():
    adapter = memory().adapter
    made: Any = type("Made", (type(adapter),), {"__module__": "shop.stores"})
    assert kind_of(made()) == "memory"
    assert BackendPlugin("backend", adapter).adapter is adapter
