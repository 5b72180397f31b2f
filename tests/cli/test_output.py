"""How answers look: tables that fit, ages, and colours where a terminal is there."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from psyqueue.cli import output
from psyqueue.clock import SystemClock, to_datetime

COLOUR = re.compile(r"\x1b\[\d+m")


@pytest.fixture
def now(monkeypatch):
    """This machine's clock stands still."""
    at_ms = SystemClock().now_ms()
    monkeypatch.setattr(SystemClock, "now_ms", lambda _: at_ms)
    return to_datetime(at_ms)


@pytest.mark.parametrize(
    ("passed", "said"),
    [
        (timedelta(0), "now"),
        (timedelta(seconds=3), "3 s ago"),
        (timedelta(minutes=3, seconds=20), "3 min ago"),
        (timedelta(hours=-2, minutes=-5), "in 2 h"),
        (timedelta(days=40), "40 d ago"),
    ],
)
def test_an_instant_is_told_as_an_age(now, passed, said):
    assert output.age(now - passed) == said
    assert output.cell(now - passed) == said


ROWS = [["01a2-0000-0000-0001", "a name that is rather long", "dead"], ["2", "short", "pending"]]


def test_a_table_is_as_wide_as_it_needs_where_no_terminal_is():
    lines = output.table_lines(("id", "name", "status"), ROWS, width=None)
    assert COLOUR.sub("", lines[1]) == "01a2-0000-0000-0001  a name that is rather long  dead"


def test_a_table_fits_a_terminal_by_its_widest_columns_and_keeps_ids_whole():
    lines = [COLOUR.sub("", line) for line in output.table_lines(("id", "name", "status"), ROWS, width=42)]
    assert lines[1] == "01a2-0000-0000-0001  a name that…  dead"
    assert all(len(line) <= 42 for line in lines)
    narrowest = [COLOUR.sub("", line) for line in output.table_lines(("id", "name", "status"), ROWS, width=10)]
    assert narrowest[1] == "01a2-0000-0000-0001  a nam…  dead"


def test_colours_are_for_terminals(cli):
    cli.make_dead("mail")
    _, said = cli.in_terminal("jobs", "ls", "--backend", cli.url)
    assert re.search(r"\x1b\[31mdead +\x1b\[0m", said)
    assert not COLOUR.search(cli.run("jobs", "ls").out)
    assert not COLOUR.search(cli.in_terminal("jobs", "ls", "--backend", cli.url, "--color", "never")[1])
    assert not COLOUR.search(cli.in_terminal("--color", "never", "jobs", "ls", "--backend", cli.url)[1])
    assert COLOUR.search(cli.run("--color", "always", "jobs", "ls").out)
    assert COLOUR.search(cli.run("jobs", "ls", "--color", "always").out)
    assert not COLOUR.search(cli.run("jobs", "ls", "--color", "always", "--json").out)


def test_no_color_is_heeded_and_overruled_by_the_option(cli, monkeypatch):
    cli.make_dead("mail")
    cli.environment["NO_COLOR"] = "1"
    assert not COLOUR.search(cli.in_terminal("jobs", "ls", "--backend", cli.url)[1])
    assert COLOUR.search(cli.in_terminal("jobs", "ls", "--backend", cli.url, "--color", "always")[1])


def test_an_id_of_ones_own_is_shown_whole(cli):
    """It is there to be copied."""
    cli.enqueue("mail", id="i" * 150)
    assert "i" * 150 in cli.in_terminal("jobs", "ls", "--backend", cli.url)[1]


def test_a_terminal_cuts_a_table_to_its_width(cli):
    cli.enqueue("n" * 150, queue="q" * 150)
    _, said = cli.in_terminal("--color", "never", "jobs", "ls", "--backend", cli.url)
    lines = said.splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" in lines[1]
    assert "…" not in cli.run("jobs", "ls").out
