"""SQLite: one file, many processes of one machine, no server."""

from psyqueue.backends._sqlite.backend import SqliteBackend
from psyqueue.backends._sqlite.options import SqliteOptions

__all__ = ["SqliteBackend", "SqliteOptions"]
