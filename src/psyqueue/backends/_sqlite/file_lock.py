"""Turns at writing, fair between processes.

SQLite's own busy handler starves: of two busy processes one wrote 60,000 jobs and the other none (measured, see
docs/adr/0004). `flock` on a side file hands the turn over in the order in which processes asked, and the kernel lets go
of it when a process dies. SQLite's lock below it stays the second line of defence.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

if sys.platform != "win32":
    import fcntl

from psyqueue.backends._sqlite.faults import busy
from psyqueue.backends._sqlite.forks import closes_in_child

MODE = 0o600


class FileLock:
    """One open handle on the side file: one holder at a time, also among the threads of a process."""

    def __init__(self, path: str, db_file: str) -> None:
        self._db_file = db_file
        self._handle = -1 if sys.platform == "win32" else os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        closes_in_child(self)

    def acquire(self) -> None:
        """Wait for the turn, for ever if need be: somebody else has to watch the time."""
        if sys.platform != "win32":
            fcntl.flock(self._handle, fcntl.LOCK_EX)

    def release(self) -> None:
        if sys.platform != "win32":
            fcntl.flock(self._handle, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def held(self, timeout_ms: int) -> Iterator[None]:
        """The turn, for a caller that may block at most `timeout_ms`. Raises StoreBusy."""
        if not self._is_free():
            self._wait(timeout_ms)
        try:
            yield
        finally:
            self.release()

    def _is_free(self) -> bool:
        if sys.platform == "win32":
            return True
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _wait(self, timeout_ms: int) -> None:
        """In a helper thread: a blocking flock cannot be given a time, and trying again and again is not fair."""
        turn = _Turn()

        def ask() -> None:
            self.acquire()
            if not turn.take():
                self.release()

        threading.Thread(target=ask, name="psyqueue-sqlite-turn", daemon=True).start()
        if not turn.wait(timeout_ms):
            raise busy(self._db_file)

    def close_in_child(self) -> None:
        """The lock belongs to the open file, which the child shares: kept open, it would outlive the parent."""
        self.close()

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class _Turn:
    """Who was first: the lock to come, or the caller to give up."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._came = threading.Event()
        self._is_given_up = False

    def take(self) -> bool:
        with self._mutex:
            if not self._is_given_up:
                self._came.set()
            return not self._is_given_up

    def wait(self, timeout_ms: int) -> bool:
        self._came.wait(timeout_ms / 1000)
        with self._mutex:
            self._is_given_up = not self._came.is_set()
            return not self._is_given_up
