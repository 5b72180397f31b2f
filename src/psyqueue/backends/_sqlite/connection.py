"""Connections: how they are opened, and that each has the settings that the promises rest on."""

from __future__ import annotations

import os
import sqlite3

from psyqueue.backends._sqlite.faults import translate
from psyqueue.backends._sqlite.options import SqliteOptions
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.errors import ForkedProcess, StoreUnusable

VERSION_MIN = (3, 35, 0)
"""RETURNING came with it."""
STATEMENTS_CACHED = 512
WAL_PAGES_MAX = 4_000
"""16 MiB of WAL before it is written back to the file: four times SQLite's default, fewer fsyncs under load."""
CACHE_KIB = 8_192
"""Of each connection. With 64 MiB a worker grew to 79 MB for the same CPU time a job (docs/adr/0004)."""


def check_version(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> None:
    if version < VERSION_MIN:
        found, least = (".".join(map(str, each)) for each in (version, VERSION_MIN))
        raise StoreUnusable(
            f"this Python comes with SQLite {found}; psyqueue needs {least} or newer. Use a newer Python"
        )


def open_connection(options: SqliteOptions, *, read_only: bool = False) -> sqlite3.Connection:
    """Raises StoreError. The caller closes it, in the process that opened it."""
    try:
        connection = sqlite3.connect(
            options.file,
            timeout=options.busy_timeout_ms / 1000,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=STATEMENTS_CACHED,
        )
    except sqlite3.Error as exc:
        raise translate(exc, options.file) from exc
    try:
        _prepare(connection, options, read_only=read_only)
    except sqlite3.Error as exc:
        connection.close()
        raise translate(exc, options.file) from exc
    except StoreUnusable:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, options: SqliteOptions, *, read_only: bool) -> None:
    if not options.is_memory:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            text = f"{options.file}: SQLite's WAL cannot be used in its folder ({mode!r} stays). Use another one"
            raise StoreUnusable(text, file=options.file)
    connection.execute(f"PRAGMA synchronous = {'FULL' if options.durability == 'full' else 'NORMAL'}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES_MAX}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute("PRAGMA temp_store = MEMORY")
    # Some distributions build SQLite to overwrite what is deleted: 15 % of a settle (measured, docs/adr/0004).
    connection.execute("PRAGMA secure_delete = OFF")
    connection.execute("PRAGMA trusted_schema = OFF")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    try:
        connection.execute(SQL["schema.has_json"])
    except sqlite3.OperationalError as exc:
        raise StoreUnusable("this Python's SQLite was built without JSON functions. Use another build") from exc


class ProcessGuard:
    """Connections are never carried over a fork: SQLite's locks do not go along, and the file would be damaged."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._process_id = os.getpid()

    def check(self) -> None:
        """Raises ForkedProcess."""
        if os.getpid() != self._process_id:
            text = f"{self._file} was opened before a fork. Make a new backend in the child and connect() it there"
            raise ForkedProcess(text, opened_by=self._process_id)
