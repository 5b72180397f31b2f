"""docs/cli.md says of every command what `--help` says: usage, purpose, each option with its help and default."""

from __future__ import annotations

import re

import click
import pytest

from psyqueue.cli.main import cli as root
from support.commands import commands
from support.source import ROOT

PAGE = ROOT / "docs" / "cli.md"
COMMON = {"--json", "--backend", "--app", "--color", "--help"}
"""Described once, at the top."""


def sections() -> dict[str, str]:
    """The text below each heading that is the name of a command."""
    parts = re.split(r"^#{2,4} `(psyqueue[^`]*)`$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def usage(name: str, command: click.Command) -> str:
    arguments = [
        item.make_metavar(click.Context(command)) for item in command.params if isinstance(item, click.Argument)
    ]
    return " ".join((name, *arguments))


def options(command: click.Command) -> dict[str, str]:
    """`--limit INTEGER` → its help, as tables show it."""
    found: dict[str, str] = {}
    context = click.Context(command)
    for item in command.params:
        if not isinstance(item, click.Option) or item.hidden or COMMON & set(item.opts):
            continue
        shown = item.get_help_record(context)
        assert shown is not None, item.name
        names, text = (re.sub(r"\s+", " ", part) for part in shown)
        found[names.replace("|", "\\|")] = text.replace("|", "\\|")
    return found


def rows(section: str) -> dict[str, str]:
    return dict(re.findall(r"^\| `(-[^`]*)` \| (.*) \|$", section, flags=re.MULTILINE))


def plain(text: str) -> str:
    """Without the marks of Markdown, on one line."""
    return re.sub(r"\s+", " ", text.replace("`", "")).strip()


@pytest.mark.parametrize(("name", "command"), list(commands(root)), ids=[name for name, _ in commands(root)])
def test_every_command_is_documented_as_its_help_has_it(name, command):
    section = sections().get(name)
    assert section is not None, f"docs/cli.md has no section {name!r}"
    assert plain(command.help or "") in plain(section)
    if not isinstance(command, click.Group):
        assert f"    {usage(name, command)}" in section.splitlines()
    assert rows(section) == options(command)


def test_no_command_is_documented_that_is_not_there():
    assert set(sections()) == {name for name, _ in commands(root)}


def test_what_all_commands_share_is_documented():
    page = PAGE.read_text(encoding="utf-8")
    assert "| `--backend URL` |" in page
    assert "| `--app MODULE:QUEUE` |" in page
    assert "| `--json` |" in page
    assert "| `--color [auto\\|always\\|never]` |" in page
    assert "| `--version` |" in page
    assert all(f"| {code} |" in page for code in (0, 1, 2, 70, 130))


@pytest.mark.parametrize(("name", "command"), list(commands(root)), ids=[name for name, _ in commands(root)])
def test_every_command_and_option_has_a_help(name, command):
    assert command.help, name
    assert command.help.split("\n")[0].endswith("."), "its first sentence stands in the list of commands"
    assert all(text for text in options(command).values())
