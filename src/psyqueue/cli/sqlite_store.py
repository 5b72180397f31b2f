"""SQLite stores as files: what can be known of one before anything opens it for writing."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from psyqueue.cli.kinds import kind_of
from psyqueue.errors import StoreUnusable

if TYPE_CHECKING:
    from psyqueue.backend import BackendAdapter
    from psyqueue.backends._sqlite import SqliteOptions

LEDGER_COLUMNS = "PRAGMA table_info(psyqueue_schema)"
"""No row where the file holds no psyqueue store."""


def sqlite_options(backend: BackendAdapter) -> SqliteOptions | None:
    """How an SQLite store is opened; None for other stores."""
    if kind_of(backend) != "sqlite":
        return None
    options: SqliteOptions = backend.options  # type: ignore[attr-defined]
    return options


def sqlite_file(backend: BackendAdapter) -> Path | None:
    """The file of an SQLite store; None for other stores and for `:memory:`."""
    options = sqlite_options(backend)
    return None if options is None or options.is_memory else Path(options.file)


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
