"""What the documents list is what the code has: nothing is missing, and nothing is made up."""

from __future__ import annotations

import inspect
import json
import re
from importlib.metadata import entry_points

import pytest

import psyqueue
from docs.pages import DOCS, PAGES, README, coded, first_cells, rows, section, text_of
from psyqueue import Context, EnqueueOptions, Kernel, PsyQueue, Verdict, backends, errors, outcome, testing
from psyqueue.backend import BackendAdapter
from psyqueue.cli.worker import worker
from psyqueue.config import SETTINGS, parse_url
from psyqueue.events import EVENTS
from psyqueue.job import STATUSES, TRANSITIONS
from psyqueue.kernel import explain
from psyqueue.kernel.context import RunningJob
from psyqueue.kernel.handlers import HANDLE_DEFAULTS, HandleOptions
from psyqueue.kernel.pipeline import PHASES
from psyqueue.kernel.queries import JobFilters, QueueLimits
from psyqueue.kernel.views import Durability, Explanation, JobView, Reason
from psyqueue.outcome import Cancel, DeadLetter, Retry, Snooze
from psyqueue.plugins import Tracing
from psyqueue.plugins.tracing import ends as tracing_ends
from psyqueue.plugins.tracing import spans as tracing_spans
from psyqueue.testing import Expected, FollowUp, HandlerContext, Kit, Moment
from psyqueue.testing.conformance import BackendFactory


def page(name: str) -> str:
    return text_of(DOCS / name)


def options_of(factory: object) -> list[str]:
    return list(inspect.signature(factory).parameters)  # type: ignore[arg-type]


def public(kind: type) -> set[str]:
    """Methods, properties and slots that a user may touch."""
    names = {name for name in vars(kind) if not name.startswith("_")}
    return names | {name for name in getattr(kind, "__slots__", ()) if not name.startswith("_")}


# ── options ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_every_option_of_enqueue_is_described_once():
    assert sorted(first_cells(section(DOCS / "enqueue.md", "Options"))) == sorted(EnqueueOptions.__annotations__)


def test_every_option_of_handle_is_described_once():
    assert sorted(first_cells(section(DOCS / "handlers.md", "Options"))) == sorted(HandleOptions.__annotations__)


@pytest.mark.parametrize(
    ("option", "default", "shown"),
    [
        ("queue", None, "the name"),
        ("max_retries", 3, "3"),
        ("backoff", "exponential", '`"exponential"`'),
        ("backoff_base", 1.0, "1 s"),
        ("backoff_cap", 300.0, "5 min"),
        ("backoff_jitter", True, "`True`"),
        ("timeout", None, "none"),
        ("mode", "auto", '`"auto"`'),
        ("unique", None, "none"),
        ("order_key", None, "none"),
        ("version", 1, "1"),
        ("upgrades", {}, ""),
        ("aliases", (), ""),
        ("retry_on", (Exception,), "`Exception`"),
        ("fatal", (), ""),
    ],
)
def test_defaults_of_handle_are_those_of_the_code(option, default, shown):
    described = {coded(cells[0])[0]: cells[1] for cells in rows(section(DOCS / "handlers.md", "Options"))}
    assert described[option] == shown
    assert dict(HANDLE_DEFAULTS)[option] == default


def test_every_option_of_a_worker_is_described():
    described = first_cells(page("workers.md"))
    parameters = inspect.signature(PsyQueue.start_worker).parameters
    assert described == ["*queues", *(name for name in parameters if name not in ("self", "queues"))]


@pytest.mark.parametrize("name", ["sqlite", "redis", "postgres"])
def test_every_option_of_a_store_is_described_with_its_default(name):
    table = re.search(r"^\| option \| default.*?\n\n", page(f"backends/{name}.md"), re.MULTILINE | re.DOTALL)
    assert table
    factory = getattr(backends, name)
    assert first_cells(table[0]) == options_of(factory)
    parameters = inspect.signature(factory).parameters
    for option, shown, _ in rows(table[0]):
        default = parameters[coded(option)[0]].default
        if default is not None:  # else in words: required, none, the system's
            assert coded(shown) == [json.dumps(default) if isinstance(default, str) else repr(default)]


def test_every_option_of_the_memory_store_is_described():
    memory = [name for cells in rows(page("backends/index.md")) if len(cells) == 3 for name in coded(cells[0])]
    assert set(options_of(backends.memory)) - {"url"} <= set(memory)


def test_every_setting_is_described_with_its_variable_and_its_option_of_the_command_line():
    described = [[coded(cell)[0] for cell in cells[:3]] for cells in rows(page("settings.md"))]
    assert [name for name, _, _ in described] == list(SETTINGS)
    options = {f"worker {name}" for item in worker.params for name in item.opts} | {"--backend"}
    for name, variable, option in described:
        assert variable == f"PSYQUEUE_{name.upper()}"
        assert option in options
        assert name == "url" or option == f"worker --{name.replace('_', '-')}"


def test_every_option_of_tracing_is_described():
    assert first_cells(section(DOCS / "tracing.md", "Options")) == options_of(Tracing)


def test_every_attribute_and_outcome_of_a_span_is_described():
    text = page("tracing.md")
    source = inspect.getsource(tracing_spans)
    attributes = set(re.findall(r'"((?:messaging|psyqueue|error)\.[\w.]+)"', source))
    assert len(attributes) >= 12
    assert {name for name in attributes if f"`{name}`" not in text} == set()
    outcomes = set(re.findall(r'End\("(\w+)"', inspect.getsource(tracing_ends))) | {"cancel", "release"}
    assert outcomes == set(first_cells(text.split("| `psyqueue.job.outcome` | the run")[1].split("\n\n")[0]))


def test_every_limit_and_filter_is_described():
    operating = DOCS / "operating.md"
    assert set(first_cells(section(operating, "Limits"))) == set(QueueLimits.__annotations__)
    assert sorted(first_cells(section(operating, "Many jobs"))) == sorted(JobFilters.__annotations__)


# ── what is given back ────────────────────────────────────────────────────────────────────────────────────────────────
def test_every_field_of_a_job_is_described():
    assert sorted(first_cells(section(DOCS / "operating.md", "One job"))) == sorted(JobView.__struct_fields__)


def test_every_field_of_the_smaller_views_is_named():
    text = page("operating.md")
    fields = {name for kind in (Explanation, Reason, Durability) for name in kind.__struct_fields__}
    assert {name for name in fields if f"`{name}`" not in text} - {"store", "version"} == set()


def test_everything_of_the_context_is_described():
    described = set(re.findall(r"`ctx\.(\w+)", page("context.md")))
    assert public(Context) - described == set()
    job = next(cells for cells in rows(page("context.md")) if cells[0] == "know the job")
    assert set(coded(job[1])) - {"ctx.job"} == public(RunningJob)


def test_every_verdict_is_described():
    text = section(DOCS / "handlers.md", "How a run ends")
    for verdict in (Retry, Snooze, Cancel, DeadLetter):
        assert issubclass(verdict, Verdict)
        assert f"| says `{verdict.__name__}(" in text
    assert set(Verdict.__subclasses__()) == {Retry, Snooze, Cancel, DeadLetter}


# ── events, errors, the life of a job ─────────────────────────────────────────────────────────────────────────────────
def test_every_event_is_described_with_its_data():
    described = {coded(cells[0])[0]: tuple(coded(cells[1])) for cells in rows(page("events.md"))}
    assert described == EVENTS


def test_every_error_is_described_with_its_code_under_its_root():
    known = {
        name: getattr(kind, "CODE", "")
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and kind.__module__ == errors.__name__ and not name.startswith("_")
    }
    known["PsyQueueError"] = ""
    described = {coded(cells[0])[0]: "".join(coded(cells[1])) for cells in rows(page("errors.md"))}
    assert described == known
    for heading, root in (("Set-up", errors.ConfigError), ("Life", errors.LifecycleError), ("Refused", errors.Refused)):
        names = first_cells(section(DOCS / "errors.md", heading))
        assert [name for name in names if not issubclass(getattr(errors, name), root)] == []


def test_every_error_can_be_imported_from_the_top():
    assert [name for name in first_cells(page("errors.md")) if not hasattr(psyqueue, name)] == []


def test_table_of_moves_is_that_of_the_code():
    table = [tuple(cells) for cells in rows(page("job_lifecycle.md").split("Every legal move")[1].split("\n## ")[0])]
    assert table == [(start, end, why) for start, ends in TRANSITIONS.items() for end, why in ends.items()]


def test_every_status_is_described_in_order():
    described = [cells[0] for cells in rows(page("job_lifecycle.md").split("Every legal move")[0])]
    assert described == list(STATUSES)


def test_every_reason_of_a_dead_job_is_described():
    described = set(first_cells(section(DOCS / "job_lifecycle.md", "Why a job is dead")))
    assert set(explain._ENDS) - described == {"dependency"}, "a job with this reason is cancelled"
    given = re.findall(r'_dead\(delivery, "(\w+)"', inspect.getsource(outcome))
    assert len(given) >= 3
    assert set(given) - described == set()


# ── the seam, the door, the names ─────────────────────────────────────────────────────────────────────────────────────
def test_every_verb_of_the_seam_is_described():
    verbs = {name for name in vars(BackendAdapter) if not name.startswith("_")}
    assert set(first_cells(section(DOCS / "backends" / "writing.md", "The seam"))) == verbs


def test_every_door_of_a_plugin_is_described():
    doors = " ".join(first_cells(section(DOCS / "plugins" / "guide.md", "The door")))
    assert set(re.findall(r"kernel\.(\w+)", doors)) == public(Kernel)


def test_every_phase_is_named_in_order():
    text = section(DOCS / "plugins" / "guide.md", "Middleware")
    assert ", ".join(f"`{phase}`" for phase in PHASES) in text


def test_every_public_name_is_described():
    described = {*first_cells(page("names.md")), *first_cells(page("errors.md"))}
    assert {name for name in psyqueue.__all__ if name not in described} == set()
    assert {name for name in described if name[:1].isupper() and not hasattr(psyqueue, name)} == set()


def test_everything_of_the_queue_is_described():
    text = section(DOCS / "names.md", "PsyQueue")
    members = {name for name in vars(PsyQueue) if not name.startswith("_")} | {"dead_letter"}
    assert {name for name in members if not re.search(rf"\b(?:q|PsyQueue)\.{name}\b", text)} == set()


def test_options_of_a_test_are_described_with_their_defaults():
    described = {coded(cells[0])[0]: cells[1] for cells in rows(page("testing.md")) if len(cells) == 3}
    defaults = {name: item.default for name, item in inspect.signature(PsyQueue.testing).parameters.items()}
    del defaults["self"]
    shown = {name: "the real time" if value is None else f"`{value!r}`" for name, value in defaults.items()}
    assert {name: cell.replace('"', "'") for name, cell in described.items()} == shown


def test_everything_of_a_test_kit_is_described():
    text = page("testing.md")
    assert [name for name in public(Kit) | {"history"} if f"t.{name}" not in text] == []
    assert [field for field in Expected.__annotations__ if f"`{field}`" not in text and f"{field}=" not in text] == []
    assert [field for field in Moment.__struct_fields__ if f"`{field}`" not in text] == []
    assert [name for name in public(HandlerContext) if f"ctx.{name}" not in text] == []
    assert [field for field in FollowUp.__struct_fields__ if f"`{field}`" not in text] == []
    told = text.partition("## One handler by itself")[2].partition("## pytest")[0]
    assert [name for name in inspect.signature(testing.context).parameters if not re.search(rf"\b{name}\b", told)] == []


def test_faults_of_a_test_kit_are_described():
    assert [name for name in testing.__all__ if is_error(name) and f"`{name}`" not in page("testing.md")] == []


def is_error(name: str) -> bool:
    kind = getattr(testing, name)
    return inspect.isclass(kind) and issubclass(kind, errors.PsyQueueError)


def test_names_of_the_stores_are_described():
    assert [name for name in backends.__all__ if f"`{name}`" not in page("names.md")] == []
    assert [name for name in BackendFactory.__slots__ if f"{name}=" not in page("backends/writing.md")] == []


def test_every_address_in_the_documents_can_be_read():
    table = section(DOCS / "backends" / "index.md", "Addresses")
    addresses = [each for each in first_cells(table) if ":" in each]
    assert len(addresses) >= 5
    schemes = {point.name for point in entry_points(group="psyqueue.backends")}
    assert {parse_url(each).scheme for each in addresses} == schemes


def test_every_address_of_a_server_in_the_documents_is_one():
    table = section(DOCS / "backends" / "redis.md", "Addresses")
    addresses = [each for cells in rows(table) for each in coded(cells[0])]
    assert len(addresses) >= 5
    for address in addresses:
        assert PsyQueue.from_url(address).get_exposed("backend")


# ── words ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
# fmt: off
TERMS = {
    "job", "handler", "queue", "worker", "enqueue", "dequeue", "delivery", "ack", "nack", "settle", "fence",
    "attempt", "retry", "replay", "purge", "session", "lease", "reap", "promote", "release", "snooze", "lane",
    "gate", "limits", "plugin", "middleware", "event", "schedule", "run_at", "deadline", "backend",
    "completion token", "dead letter", "idempotency key", "unique key", "order key",
}
# fmt: on
BANNED = re.compile(r"\b(?:tasks?|DLQ|broker|ETA|fetch(?:es|ed)? jobs?|claims? (?:a |the )?jobs?)\b")


def test_every_term_has_an_entry():
    entries = {word.strip() for cells in rows(page("glossary.md")) for word in cells[0].split(",")}
    assert TERMS - entries == set()
    assert set(STATUSES) - {"completed", "cancelled"} - entries == set(), "these two say what they mean"


def test_no_word_is_explained_twice():
    entries = [cells[0] for cells in rows(page("glossary.md"))]
    assert sorted(entries) == sorted(set(entries))


def test_documents_keep_to_the_words():
    # Code has names that are not ours (asyncio.create_task); the glossary names what is not said here.
    pages = [each for each in PAGES if each.name != "glossary.md" and "adr" not in each.parts]
    prose_of = {each: re.sub(r"```.*?```|`[^`]*`", "", text_of(each), flags=re.DOTALL) for each in pages}
    found = {each.name: BANNED.findall(text) for each, text in prose_of.items()}
    assert {name: words for name, words in found.items() if words} == {}


def test_readme_has_no_figure_without_a_measurement():
    readme = text_of(README)
    if re.search(r"\d[\d,. ]*(?:k )?jobs(?:/s| a second)", readme):
        assert re.search(r"benchmarks/results/[\w.-]+\.json", readme)
