"""A private folder for one server, removed with it; folders of killed test runs are swept by the next run.

Ownership is a lock file held by the living process, not a process id: ids are reused, and mean nothing to a
neighbour in another container that shares the temporary folder.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "psyqueue-test-"
_LOCK = "owner.lock"
_REMOVE_S_MAX = 5.0
_UNIX_SOCKET_DIR_CHARS_MAX = 60  # a socket's path may hold 104 characters on the strictest system


class ServerHome:
    """One server's folder. `remove` is idempotent; a process that dies without it leaves it to the sweep."""

    def __init__(self) -> None:
        base = _base_folder()
        _sweep(base)
        self.path, self._lock_fd = _create(base)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def give_to(self, uid: int, gid: int) -> None:
        """Let a server that drops root own its folder."""
        os.chown(self.path, uid, gid)

    def remove(self) -> None:
        if self._lock_fd < 0:
            return
        _remove_tree(self.path)
        os.close(self._lock_fd)
        self._lock_fd = -1


def _base_folder() -> Path:
    # Straight below the temporary folder: pytest's tmp_path is closed (0700) to the user a server drops to.
    for base in (os.environ.get("TMPDIR"), "/tmp", "/dev/shm", "/var/tmp", tempfile.gettempdir()):
        if base and len(base) < _UNIX_SOCKET_DIR_CHARS_MAX and os.access(base, os.W_OK | os.X_OK):
            return Path(base)
    raise OSError("no writable temporary folder with a short path; set TMPDIR")


def _create(base: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        lock_fd = _lock(path / _LOCK, os.O_CREAT | os.O_RDWR)
        if lock_fd is not None:
            return path, lock_fd
        # A sweeping neighbour got in between creation and lock, and removes the folder: take another.


def _lock(path: Path, flags: int) -> int | None:
    """None if somebody else holds it, or if it is gone: who waited for a sweep to end locks a file with no name."""
    try:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    if os.fstat(fd).st_nlink == 0:
        os.close(fd)
        return None
    return fd


def _sweep(base: Path) -> None:
    for path in base.glob(PREFIX + "*"):
        lock_fd = _lock(path / _LOCK, os.O_RDWR)
        if lock_fd is not None:  # its owner is dead
            _remove_tree(path)
            os.close(lock_fd)


def _remove_tree(path: Path) -> None:
    """Children of a killed PostgreSQL write for a moment more, so removal is tried until it holds."""
    _free_shared_memory(path)
    end = time.monotonic() + _REMOVE_S_MAX
    while path.exists():
        shutil.rmtree(path, ignore_errors=time.monotonic() < end)


def _free_shared_memory(path: Path) -> None:
    """A killed PostgreSQL leaves a System V segment behind, named in the 7th line of its pid file."""
    try:
        lines = (path / "data" / "postmaster.pid").read_text().splitlines()
        shared_memory_id = int(lines[6].split()[1])
    except (OSError, IndexError, ValueError):
        return
    ctypes.CDLL(None).shmctl(shared_memory_id, 0, None)  # 0 is IPC_RMID
