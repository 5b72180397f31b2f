"""SQLite stores as files: what can be known of one before anything opens it for writing."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from psyqueue.config import parse_url
from psyqueue.errors import StoreUnusable

LEDGER_COLUMNS = "PRAGMA table_info(psyqueue_schema)"
"""No row where the file holds no psyqueue store."""


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite URL; None for other stores and for `sqlite::memory:`. Raises ConfigError."""
    parsed = parse_url(url)
    if parsed.scheme != "sqlite":
        return None
    path = parsed.address.partition(":")[2]
    path = path.removeprefix("//")
    return None if path in (":memory:", "") else Path(path).expanduser().absolute()


def require_file(file: Path) -> None:
    """Raises StoreUnusable where the file is no psyqueue store.

    Commands that look or change never make one: a typing error must not leave a file behind, nor put our tables into
    the database of another program.
    """
    if not file.exists():
        text = f"{file}: there is no such file. Look at the path; `psyqueue enqueue` and a worker create a store"
        raise StoreUnusable(text, file=str(file))
    if file.is_file() and not holds_store(file):
        text = f"{file} holds no psyqueue store. Look at the path; this file was left as it is"
        raise StoreUnusable(text, file=str(file))


def holds_store(file: Path) -> bool:
    """False only if that is certain: a file that cannot be read is for the backend to complain about."""
    try:
        with contextlib.closing(open_read_only(file)) as connection:
            return connection.execute(LEDGER_COLUMNS).fetchone() is not None
    except sqlite3.Error:
        return True


def open_read_only(file: Path) -> sqlite3.Connection:
    """A connection that cannot write. Raises sqlite3.Error."""
    return sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, isolation_level=None)
