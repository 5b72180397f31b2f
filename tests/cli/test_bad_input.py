"""What is typed wrongly: one line that says what and how to go on, no traceback, exit code 2. Of every command."""

from __future__ import annotations

import click
import pytest

from psyqueue.cli.main import cli as root
from support.commands import commands

LEAVES = [(name, command) for name, command in commands(root) if not isinstance(command, click.Group)]
GROUPS = [name for name, command in commands(root) if isinstance(command, click.Group)]
NAMES = [name for name, _ in commands(root)]
WORD = "no\nsense\x1b[31m"
"""No number, choice, duration, instant, rate, filter, payload or queue in a module."""


def require_one_line(answer, *told: str) -> None:
    assert answer.code == 2, answer
    assert answer.out == ""
    assert answer.err.count("\n") == 1, answer
    assert answer.err.startswith("psyqueue: "), answer
    assert answer.err.endswith("\n")
    assert "\x1b" not in answer.err
    for text in told:
        assert text in answer.err, answer


def words(name: str) -> list[str]:
    return name.split()[1:]


def arguments(command: click.Command) -> list[str]:
    """One word for each argument that has to be there."""
    return ["x" for item in command.params if isinstance(item, click.Argument) and item.required]


def options_with_value() -> list[tuple[str, click.Command, str]]:
    return [
        (name, command, item.opts[0])
        for name, command in LEAVES
        for item in command.params
        if isinstance(item, click.Option) and not item.is_flag and not item.hidden
    ]


@pytest.mark.parametrize("name", NAMES)
def test_an_option_that_is_not_there_is_one_line(cli, name):
    require_one_line(cli.call(*words(name), "--nonsense"), "--nonsense", f"Try '{name} --help'")


@pytest.mark.parametrize("name", ["psyqueue", *GROUPS])
def test_a_command_that_is_not_there_is_one_line(cli, name):
    require_one_line(cli.call(*words(name), "nonsense"), "No such command 'nonsense'.", f"Try '{name} --help'")


@pytest.mark.parametrize(
    ("name", "command"), [each for each in LEAVES if arguments(each[1])], ids=[n for n, c in LEAVES if arguments(c)]
)
def test_an_argument_that_is_missing_is_one_line(cli, name, command):
    (first, *_) = (item for item in command.params if isinstance(item, click.Argument))
    metavar = first.make_metavar(click.Context(command))
    require_one_line(cli.call(*words(name)), f"Missing argument '{metavar}'", f"Try '{name} --help'")


@pytest.mark.parametrize(
    ("name", "command", "option"), options_with_value(), ids=[f"{n} {o}" for n, _, o in options_with_value()]
)
def test_a_value_that_cannot_be_meant_is_one_line(cli, name, command, option):
    """Without a store: what takes any text ends there, everything else before."""
    require_one_line(cli.call(*words(name), *arguments(command), option, WORD, store=False))
    assert list(cli.folder.iterdir()) == []


def test_a_value_is_told_with_its_option_and_the_way_to_help(cli):
    told = "psyqueue: Invalid value for '--limit': 'x' is not a valid integer range. Try 'psyqueue jobs ls --help'\n"
    assert cli.call("jobs", "ls", "--limit", "x").err == told


def test_choices_stand_in_the_one_line(cli):
    require_one_line(cli.call("completion"), "bash", "zsh", "fish", "Try 'psyqueue completion --help'")


def test_wrong_use_is_one_document_with_json(cli):
    answer = cli.call("jobs", "ls", "--limit", "x", "--json")
    assert answer.code == 2
    message = "Invalid value for '--limit': 'x' is not a valid integer range."
    assert answer.json == {"error": {"code": "WRONG_USE", "message": message}}
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "message"), [(["--json"], "Missing command."), (["--json", "jobs"], "no command named")]
)
def test_no_command_at_all_is_one_document_with_json(cli, typed, message):
    answer = cli.call(*typed)
    assert (answer.code, answer.json) == (2, {"error": {"code": "WRONG_USE", "message": message}})


NO_TEXT = "\udcff"
"""What Python makes of an argument with a byte that is not UTF-8."""


@pytest.mark.parametrize(
    "typed",
    [
        *(f"jobs ls --{option} {NO_TEXT}" for option in ("queue", "name", "tenant", "text", "cursor")),
        f"jobs ls id:{NO_TEXT}",
        *(f"jobs {verb} {NO_TEXT}" for verb in ("show", "explain", "cancel", "retry", "rm --yes")),
        f"dead ls --queue {NO_TEXT}",
        f"dead ls --cursor {NO_TEXT}",
        f"queues pause {NO_TEXT}",
        f"queues limits q --lane {NO_TEXT}",
        f"queues limits q --cursor {NO_TEXT}",
        f"enqueue {NO_TEXT}",
        f"enqueue a {{}} --queue {NO_TEXT}",
        f"workers stop {NO_TEXT}",
    ],
    ids=ascii,
)
def test_bytes_that_are_no_text_are_refused_or_not_found(cli, typed):
    assert cli.call("enqueue", "a").code == 0
    answer = cli.call(*typed.split())
    assert answer.code in (1, 2), answer
    assert answer.err.startswith("psyqueue: "), answer
