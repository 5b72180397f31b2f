"""The reader: one thread with a connection of its own, so that who looks never waits for who writes.

WAL gives each look a snapshot. A look that begins after a write was acknowledged sees it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from concurrent.futures import Future
from queue import SimpleQueue

from psyqueue.backends._sqlite.faults import translate
from psyqueue.backends._sqlite.forks import closes_in_child, leak
from psyqueue.backends._sqlite.options import SqliteOptions
from psyqueue.backends._sqlite.place import Identity
from psyqueue.backends._sqlite.step import Step
from psyqueue.backends._sqlite.writer import Call


class Reader:
    """`submit` is for any thread; calls are answered in order."""

    def __init__(self, options: SqliteOptions, connection: sqlite3.Connection, identity: Identity) -> None:
        self._options = options
        self._connection = connection
        self._identity = identity
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self.closed: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="psyqueue-sqlite-reader", daemon=True)
        closes_in_child(self)

    def start(self) -> None:
        self._thread.start()

    def submit(self, call: Call) -> None:
        self._calls.put(call)

    def stop(self) -> None:
        self._calls.put(None)

    def _run(self) -> None:
        self.closed.set_running_or_notify_cancel()  # from here on nobody who waits for it can cancel it
        try:
            while (call := self._calls.get()) is not None:
                if call.take():
                    self._look(call)
                    call.answer()
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self.closed.set_result(None)

    def close_unused(self) -> None:
        """Instead of `start`."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def close_in_child(self) -> None:
        leak(self._connection)

    def _look(self, call: Call) -> None:
        try:
            self._identity.check()
            self._connection.execute("BEGIN")
            try:
                call.reply = call.work(Step(self._connection))
            finally:
                # Not so when the disk failed: SQLite gave the transaction up by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        except sqlite3.Error as exc:
            call.error = translate(exc, self._options.file)
            call.error.__cause__ = exc
        except Exception as exc:  # noqa: BLE001 - whatever it is belongs to the caller, not to this thread
            call.error = exc
