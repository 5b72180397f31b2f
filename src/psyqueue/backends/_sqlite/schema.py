"""The schema's version: created or brought up to date in one transaction, under the turn at writing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from psyqueue.backend.failpoints import failpoint
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends.migrations import Applied, Migration, load_migrations, plan
from psyqueue.clock import SystemClock, to_datetime
from psyqueue.errors import StoreUnusable

MIGRATIONS = load_migrations("psyqueue.backends._sqlite")
_LEDGER = "psyqueue_schema"


def migrate(
    connection: sqlite3.Connection,
    file: str,
    *,
    test_clock_ms: int | None = None,
    migrations: tuple[Migration, ...] = MIGRATIONS,
) -> int:
    """The schema's number after it. The caller holds the turn at writing. Raises SchemaTooNew, StoreUnusable."""
    # Who opens what is there already waits for no writer: the caller's own transaction may be the one.
    if not _missing(connection, file, migrations):
        return len(migrations)
    connection.execute("BEGIN IMMEDIATE")
    try:
        _apply(connection, file, test_clock_ms, migrations)
        failpoint("sqlite.migrate.commit")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return len(migrations)


def _missing(connection: sqlite3.Connection, file: str, known: tuple[Migration, ...]) -> Sequence[Migration]:
    names = {name for (name,) in connection.execute(SQL["schema.names"])}
    if names and _LEDGER not in names:
        text = f"{file} holds tables named psyqueue_… that are not ours ({min(names)}). Use another file"
        raise StoreUnusable(text, file=file)
    return plan(known, read_ledger(connection) if names else [], file)


def _apply(connection: sqlite3.Connection, file: str, test_clock_ms: int | None, known: tuple[Migration, ...]) -> None:
    now_ms = SystemClock().now_ms() if test_clock_ms is None else test_clock_ms
    missing = _missing(connection, file, known)
    if len(missing) == len(known):
        connection.execute(SQL["schema.create_ledger"])
    for migration in missing:
        failpoint("sqlite.migrate.before")
        for statement in split(migration.text):
            connection.execute(statement)
        note = migration.applied
        connection.execute(SQL["schema.note"], (note.number, note.name, note.checksum, now_ms))
    if missing:
        connection.execute(SQL["schema.start"], (test_clock_ms, now_ms, now_ms))


def read_ledger(connection: sqlite3.Connection) -> list[Applied]:
    """The schema is there."""
    rows = connection.execute(SQL["schema.ledger"])
    # No phase: the processes of one machine change over together, and none works on a schema that it does not know.
    return [Applied(row[0], row[1], row[2], applied_at=to_datetime(row[3])) for row in rows]


def split(script: str) -> Iterator[str]:
    """The statements of a script. `executescript` would commit before the first of them."""
    statement = ""
    for line in script.splitlines(keepends=True):
        if not statement and (not line.strip() or line.lstrip().startswith("--")):
            continue
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    assert not statement.strip(), statement
