"""The lease thread's way to the store: blocking, on a connection of its own, under the same turn at writing."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable

from psyqueue.backend import Renewal
from psyqueue.backend.failpoints import failpoint
from psyqueue.backends._sqlite.connection import ProcessGuard, open_connection
from psyqueue.backends._sqlite.faults import translate
from psyqueue.backends._sqlite.file_lock import FileLock
from psyqueue.backends._sqlite.forks import closes_in_child, leak
from psyqueue.backends._sqlite.options import SqliteOptions
from psyqueue.backends._sqlite.place import Identity
from psyqueue.backends._sqlite.sessions import renew
from psyqueue.backends._sqlite.step import Step


class FileKeeper:
    """One lease thread uses it; `close` may come from another."""

    def __init__(self, options: SqliteOptions, lock_path: str, identity: Identity) -> None:
        self._options = options
        self._lock_path = lock_path
        self._identity = identity
        self._guard = ProcessGuard(options.file)
        self._mutex = threading.Lock()
        self._lock: FileLock | None = None
        self._connection: sqlite3.Connection | None = None
        closes_in_child(self)

    def renew(self, session_id: str) -> Renewal:
        self._guard.check()
        with self._mutex:
            self._identity.check()
            lock, connection = self._opened()
            with lock.held(self._options.busy_timeout_ms):
                return self._renew(connection, session_id)

    def _opened(self) -> tuple[FileLock, sqlite3.Connection]:
        if self._lock is None:
            self._lock = FileLock(self._lock_path, self._options.file)
        if self._connection is None:
            self._connection = open_connection(self._options)
        return self._lock, self._connection

    def _renew(self, connection: sqlite3.Connection, session_id: str) -> Renewal:
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                step = Step(connection)
                renewal = renew(step, session_id)
                step.flush()
                failpoint("sqlite.renew.before")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as exc:
            raise translate(exc, self._options.file) from exc
        failpoint("sqlite.renew.after")
        return renewal

    def close_in_child(self) -> None:
        if self._connection is not None:
            leak(self._connection)

    def close(self) -> None:
        with self._mutex:
            if self._lock is not None:
                self._lock.close()
            if self._connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.close()
            self._lock = self._connection = None


class MemoryKeeper:
    """`:memory:` has one connection, so the lease thread goes through its writer."""

    def __init__(self, run: Callable[[Callable[[Step], Renewal]], Renewal]) -> None:
        self._run = run

    def renew(self, session_id: str) -> Renewal:
        return self._run(lambda step: renew(step, session_id))

    def close(self) -> None:
        """Nothing of its own."""
