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

from psyqueue.backends._sqlite.faults import busy, way_out_of
from psyqueue.backends._sqlite.forks import closes_in_child
from psyqueue.errors import StoreUnusable

MODE = 0o600


class FileLock:
    """One open handle on the side file: one holder at a time, also among the threads of a process."""

    def __init__(self, path: str, db_file: str) -> None:
        """Raises StoreUnusable."""
        self._path = path
        self._db_file = db_file
        self._handle = -1 if sys.platform == "win32" else self._open()
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
        """The turn, for a caller that may block at most `timeout_ms`. Raises StoreBusy, StoreUnusable."""
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
        """In a helper thread: a blocking flock cannot be given a time, and trying again and again is not fair.

        The helper has a handle of its own: if its caller has given up when the turn comes, closing it gives the turn
        back without touching what the caller does by then.
        """
        turn = _Turn()
        handle = self._open()

        def ask() -> None:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not turn.give():
                os.close(handle)

        try:
            threading.Thread(target=ask, name="psyqueue-sqlite-turn", daemon=True).start()
        except BaseException:
            os.close(handle)
            raise
        if not turn.wait(timeout_ms):
            raise busy(self._db_file)
        os.close(self._handle)
        self._handle = handle

    def close_in_child(self) -> None:
        """The lock belongs to the open file, which the child shares: kept open, it would outlive the parent."""
        self.close()

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        except OSError as exc:
            text = f"{self._path} cannot be opened ({exc.strerror}): turns at writing need it"
            raise StoreUnusable(f"{text}. {way_out_of(exc)}", file=self._db_file) from exc


class _Turn:
    """Who was first: the lock to come, or the caller to give up."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._came = threading.Event()
        self._has_come = self._is_given_up = False

    def give(self) -> bool:
        """False: nobody waits for it any more."""
        with self._mutex:
            if self._is_given_up:
                return False
            self._has_come = True
            self._came.set()
            return True

    def wait(self, timeout_ms: int) -> bool:
        """False: it did not come in time, and will not be taken."""
        self._came.wait(timeout_ms / 1000)
        with self._mutex:
            self._is_given_up = not self._has_come
            return self._has_come
