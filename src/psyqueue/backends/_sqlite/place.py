"""Is this file, in this folder, on this file system, one that jobs can be trusted to?"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from psyqueue.backends._sqlite.faults import way_out_of
from psyqueue.errors import StoreUnusable

NETWORK = frozenset(
    {
        *("nfs", "nfs3", "nfs4", "cifs", "smb", "smbfs", "smb2", "smb3", "9p", "afs", "ceph", "coda", "lustre", "gpfs"),
        *("glusterfs", "beegfs", "ocfs2", "gfs2", "davfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs"),
        *("fuse.rclone", "fuse.gcsfuse", "fuse.goofys", "fuse.davfs", "fuse.juicefs", "fuse.smbnetfs", "fuse.mfs"),
        "fuse.beegfs",
    }
)
"""File systems of other machines: the locks and the shared memory of SQLite's WAL do not hold on them."""
DOUBTFUL = frozenset(("virtiofs", "fuse.grpcfuse", "fuse.osxfs", "vboxsf", "prl_fs", "fuse.vmhgfs-fuse"))
"""Shared with a host: good inside one guest, not between host and guest."""
_BYTES_MIN = 512
"""SQLite's smallest page, which it writes whole. One byte it would take for an empty database, and write over it."""
_OCTAL = re.compile(r"\\([0-7]{3})")
_MOUNTS = Path("/proc/self/mountinfo")


def check_place(file: str, *, allow_network: bool) -> tuple[str, ...]:
    """Create the file if it is missing (readable by its owner only). Returns warnings; raises StoreUnusable."""
    path = Path(file)
    if not path.parent.is_dir():
        raise _unusable(
            file, f"its folder {str(path.parent)!r} does not exist. Create the folder, or give another path"
        )
    if path.is_dir():
        raise _unusable(file, 'is a folder. Give the path of a file in it, such as "jobs.db"')
    warnings = check_file_system(file, file_system_of(file), allow_network=allow_network)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise _unusable(file, "its folder cannot be written (SQLite keeps its -wal file there). Give this user access")
    _create(file)
    if not os.access(file, os.R_OK | os.W_OK):
        raise _unusable(file, "cannot be opened for writing. Give this user access to it")
    _check_names(file, _mounts())
    if not _is_database(path):
        raise _unusable(file, "is not an SQLite database. Give the path of another file; this one was left as it is")
    return warnings


def _check_names(file: str, mounts: Iterable[str]) -> None:
    """The WAL holds what was accepted last, and lies beside the name by which the file was opened.

    Who comes by another name sees nothing of it, writes a WAL of his own, and one writes over the other.
    """
    if (names := os.stat(file).st_nlink) > 1:  # noqa: PTH116 - as everywhere here
        raise _unusable(
            file,
            f"has {names} names (hard links), and SQLite keeps a -wal for each: what one accepts, the other loses. "
            f"Remove the other names (find / -samefile {file}), or use a copy of it",
        )
    if os.path.realpath(file) in _folders_of(mounts):
        raise _unusable(
            file,
            "is mounted by itself, without its folder: accepted jobs in its -wal would stay behind, in this container "
            "for example. Mount the folder, and give the path of a file in it",
        )


def _create(file: str) -> None:
    """If it is missing. One that is there is never opened here.

    Closing any handle on a file takes all locks from it that this process has: another client of the process, or the
    application's own connection, would stand without them, and the next process that leaves would remove the WAL.
    """
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except OSError as exc:
        raise _unusable(file, f"cannot be created ({exc.strerror}). {way_out_of(exc)}") from exc


def _is_database(path: Path) -> bool:
    """Asked through SQLite, which looks after its locks. Any other trouble is told by who really opens it."""
    if 0 < path.stat().st_size < _BYTES_MIN:
        return False
    with contextlib.suppress(sqlite3.Error):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0)
        try:
            connection.execute("PRAGMA schema_version")
        except sqlite3.DatabaseError as exc:
            return exc.sqlite_errorcode != sqlite3.SQLITE_NOTADB
        finally:
            connection.close()
    return True


def check_file_system(file: str, kind: str | None, *, allow_network: bool) -> tuple[str, ...]:
    if kind in NETWORK:
        if not allow_network:
            raise _unusable(
                file,
                f"lies on a network file system ({kind}), where SQLite's locks do not hold and jobs can be lost. Use a "
                "local disk, or redis(...) or postgres(...) for workers on several machines",
            )
        return (f"the file lies on a network file system ({kind}): jobs can be lost or run twice",)
    if kind in DOUBTFUL:
        return (f"the file lies on {kind}: do not open it from host and guest at the same time",)
    return ()


def file_system_of(file: str) -> str | None:
    """Its kind, such as "ext4"; None where the system does not tell (anything but Linux)."""
    return kind_at(os.path.realpath(file), _mounts())


def _mounts() -> Sequence[str]:
    try:
        return _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()


def kind_at(path: str, mounts: Iterable[str]) -> str | None:
    """The kind of the last mount whose folder holds `path`; later mounts of a folder cover earlier ones."""
    found, found_length = None, -1
    for folder, kind in _parsed(mounts):
        holds = path == folder or path.startswith(folder if folder.endswith("/") else f"{folder}/")
        if holds and len(folder) >= found_length:
            found, found_length = kind, len(folder)
    return found


def _folders_of(mounts: Iterable[str]) -> frozenset[str]:
    return frozenset(folder for folder, _ in _parsed(mounts))


def _parsed(mounts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Where something is mounted, which may be a file, and the kind of its file system."""
    for line in mounts:
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) >= 5 and right:
            yield _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4]), right.split(" ")[0]


class Identity:
    """The file that was opened, and SQLite's files beside it: the paths must go on leading to them.

    Whoever opens a file that is not the same any more, or gets a WAL of its own, works in another world of jobs. Made
    after the first look at the file: the files beside it are there then, and stay while anybody has it open.
    """

    def __init__(self, file: str) -> None:
        """Raises StoreUnusable."""
        self._file = file
        self._paths = (file, f"{file}-wal", f"{file}-shm")
        self._inodes = tuple(map(self._find, self._paths))

    def check(self) -> None:
        """Raises StoreUnusable once a path leads to another file, or to none."""
        for path, inode in zip(self._paths, self._inodes, strict=True):
            if self._find(path) != inode:
                raise self._gone(path, "was replaced by another file")

    def _find(self, path: str) -> tuple[int, int]:
        try:
            found = os.stat(path)  # noqa: PTH116 - on the hot path; Path costs four times as much
        except FileNotFoundError as exc:
            raise self._gone(path, "was deleted or moved away") from exc
        except OSError as exc:
            raise self._gone(path, f"cannot be reached any more ({exc.strerror})") from exc
        return found.st_dev, found.st_ino

    def _gone(self, path: str, problem: str) -> StoreUnusable:
        way_out = "Put it back, or restart with the right path"
        if path != self._file:
            way_out = "Put it back, or stop and restart every process that uses it"
        return StoreUnusable(f"{path}: {problem} while it was open. {way_out}", file=self._file)


def _unusable(file: str, problem: str) -> StoreUnusable:
    return StoreUnusable(f"{file}: {problem}", file=file)
