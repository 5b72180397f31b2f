"""What is set outside of the code: code < pyproject.toml < environment < command line."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest

from psyqueue import ConfigError, InvalidOption, PsyQueue
from psyqueue.cli import main
from psyqueue.cli import worker as worker_command
from psyqueue.cli.surface import Surface
from psyqueue.config import SETTINGS, read_settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one, and an environment that says nothing."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PSYQUEUE_")]:
        monkeypatch.delenv(name)
    return tmp_path


def project(text: str) -> None:
    Path("pyproject.toml").write_text(f"[tool.psyqueue]\n{text}\n")


def place_of(q: PsyQueue) -> str:
    return str(Path(q.get_exposed("backend").options.file).name)


def test_nothing_is_set_by_default():
    assert read_settings() == {}
    Path("pyproject.toml").write_text("[tool.other]\nurl = 3\n")
    assert read_settings() == {}


def test_the_environment_wins_over_the_project(monkeypatch):
    project('url = "sqlite:a.db"\nqueues = ["a:20", "b"]\nconcurrency = 5')
    assert read_settings() == {"url": "sqlite:a.db", "queues": "a:20,b", "concurrency": 5}
    monkeypatch.setenv("PSYQUEUE_URL", "sqlite:b.db")
    monkeypatch.setenv("PSYQUEUE_CONCURRENCY", "")  # is not set
    monkeypatch.setenv("PSYQUEUE_TEST", "1")  # none of ours
    assert read_settings() == {"url": "sqlite:b.db", "queues": "a:20,b", "concurrency": 5}


def test_a_queue_is_made_on_the_store_that_is_set(monkeypatch):
    assert place_of(PsyQueue.from_config("sqlite:code.db")) == "code.db"
    project('url = "sqlite:project.db"')
    assert place_of(PsyQueue.from_config("sqlite:code.db")) == "project.db"
    monkeypatch.setenv("PSYQUEUE_URL", "sqlite:environment.db")
    q = PsyQueue.from_config("sqlite:code.db", name="shop", durability="normal")
    assert (place_of(q), q.name) == ("environment.db", "shop")
    with pytest.raises(InvalidOption, match="durabilty"):
        PsyQueue.from_config(durabilty="normal")


def test_a_queue_without_any_store_says_where_to_name_one():
    with pytest.raises(ConfigError, match="set PSYQUEUE_URL, or url in"):
        PsyQueue.from_config()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[tool.psyqueue]\nconcurency = 5", "there is no 'concurency'; there are url, queues, concurrency"),
        ("[tool]\npsyqueue = 5", "is no table"),
        ("[tool.psyqueue\n", r"pyproject\.toml cannot be read"),
    ],
)
def test_a_project_that_cannot_be_read_is_refused_with_its_place(text, problem, folder):
    Path("pyproject.toml").write_text(text)
    with pytest.raises(ConfigError, match=problem) as caught:
        read_settings()
    assert str(folder) in str(caught.value)


SET = {
    "queues": "a:7,b",
    "concurrency": 3,
    "processes": 2,
    "grace": "7s",
    "lease": "50s",
    "health_host": "127.0.0.9",
    "health_port": 8123,
    "log_level": "debug",
    "log_format": "json",
}


def asked(arguments: list[str]) -> dict[str, object]:
    """The options with which `psyqueue worker` would start."""
    seen: dict[str, object] = {}

    def note(surface: Surface, /, target: str, **options: object) -> None:
        seen.update(options, url=surface.url)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_command.worker, "callback", click.pass_obj(note))
        assert main.run([*arguments]) == 0
    return {name: value for name, value in seen.items() if name in SETTINGS}


def test_a_worker_starts_with_what_is_set_and_the_command_line_wins(monkeypatch):
    project("\n".join(f"{name} = {value!r}" for name, value in SET.items()) + '\nurl = "sqlite:a.db"')
    assert set(SET) | {"url"} == set(SETTINGS)
    assert asked(["worker", "shop:q"]) == {**SET, "url": "sqlite:a.db"}
    monkeypatch.setenv("PSYQUEUE_CONCURRENCY", "30")
    monkeypatch.setenv("PSYQUEUE_GRACE", "1m")
    monkeypatch.setenv("PSYQUEUE_URL", "sqlite:b.db")
    assert asked(["worker", "shop:q"]) == {**SET, "concurrency": 30, "grace": "1m", "url": "sqlite:b.db"}
    given = asked(["--backend", "sqlite:c.db", "worker", "shop:q", "--concurrency", "4", "--queues", "x"])
    assert given == {**SET, "concurrency": 4, "grace": "1m", "queues": "x", "url": "sqlite:c.db"}


def test_each_process_of_a_worker_is_one_process_whatever_is_set():
    options = {**SET, "name": None}
    plan = worker_command._plan("shop:q", {**options, "supervisor_fd": None})
    arguments = list(worker_command._arguments(Surface("sqlite:a.db"), plan, options, 0))
    assert arguments[arguments.index("--processes") + 1] == "1"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("concurrency = 'many'", "'many' is not a valid integer. [tool.psyqueue] in {folder}/pyproject.toml says so."),
        ("grace = '5x'", "Give seconds, a timedelta, or text such as"),
        ("wrong = 1", "there is no 'wrong'"),
    ],
)
def test_what_is_set_wrongly_is_wrong_use_told_in_a_line(text, told, folder, capsys):
    project(text)
    assert main.run(["worker", "shop:q"]) == 2
    assert told.replace("{folder}", str(folder)) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"), [("CONCURRENCY", "abc"), ("LOG_FORMAT", "jsn"), ("GRACE", "5x"), ("QUEUES", "a:0")]
)
def test_who_set_what_is_wrong_is_told_unless_the_command_line_did(name, value, monkeypatch, capsys):
    monkeypatch.setenv(f"PSYQUEUE_{name}", value)
    assert main.run(["worker", "shop:q"]) == 2
    assert f"PSYQUEUE_{name} says so" in capsys.readouterr().err
    assert main.run(["worker", "shop:q", f"--{name.lower().replace('_', '-')}", value]) == 2
    assert "says so" not in capsys.readouterr().err


def test_a_variable_that_is_written_wrongly_is_told(monkeypatch, capsys):
    monkeypatch.setenv("PSYQUEUE_CONCURENCY", "5")
    monkeypatch.setenv("PSYQUEUE_TEST_REDIS_URL", "redis://localhost")
    assert main.run(["jobs", "ls"]) == 2
    told = capsys.readouterr().err
    assert "PSYQUEUE_CONCURENCY is set, and nobody reads it: did you mean PSYQUEUE_CONCURRENCY?" in told
    assert "REDIS" not in told


def test_a_command_finds_the_store_of_the_project():
    project('url = "sqlite:jobs.db"')
    assert main.run(["enqueue", "mail"]) == 0
    assert Path("jobs.db").exists()
