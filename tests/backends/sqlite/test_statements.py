"""Every statement finds its rows by an index. Plans are SQLite's own."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator

import pytest

from psyqueue.backends._sqlite import SqliteOptions
from psyqueue.backends._sqlite.connection import open_connection
from psyqueue.backends._sqlite.schema import migrate
from psyqueue.backends._sqlite.statements import SQL

# Walks over whole tables, each with its reason.
SMALL = {
    "links.first_follower": "the first of what is nearly always nothing",
    "meta.read": "the first row of four small tables",
    "promote.next": "one row without a table, then two minima of indexes",
    "prune.queues": "a row for each queue and status",
    "prune.tallies": "a row for each queue and status",
    "prune.turns": "a row for each channel of a client",
    "prune.lanes": "a row for each lane in use",
    "reading.active": "as many as workers hold",
    "reading.queues": "a row for each queue",
    "session.extend_all": "every open session is meant",
    "session.left_behind": "a row for each session of a day",
}
WHOLE = ("check.", "schema.")


@pytest.fixture(scope="module")
def connection() -> Iterator[sqlite3.Connection]:
    opened = open_connection(SqliteOptions(path=":memory:"))
    migrate(opened, ":memory:")
    yield opened
    opened.close()


def plan(connection: sqlite3.Connection, statement: str) -> list[str]:
    params = [None] * statement.count("?")
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", params)]


@pytest.mark.parametrize("name", [each for each in SQL if not each.startswith(WHOLE) and each not in SMALL])
def test_no_statement_walks_a_table_or_sorts(connection: sqlite3.Connection, name: str) -> None:
    lines = [line for line in plan(connection, SQL[name]) if "json_each" not in line]
    assert [line for line in lines if line.startswith("SCAN") or "TEMP B-TREE" in line or "AUTOMATIC" in line] == []


@pytest.mark.parametrize("name", SQL)
def test_placeholders_have_neither_names_nor_numbers(name: str) -> None:
    """Some releases of Python 3.12 warn of both when the values come as a tuple."""
    assert not re.search(r"\?\d|[:@$]\w", SQL[name])


@pytest.mark.parametrize("name", SMALL)
def test_exceptions_are_still_statements(connection: sqlite3.Connection, name: str) -> None:
    assert plan(connection, SQL[name])
