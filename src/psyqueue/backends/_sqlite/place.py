"""Is this file, in this folder, on this file system, one that jobs can be trusted to?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

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
_HEADER = b"SQLite format 3\0"
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
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        with path.open("rb") as opened:
            head = opened.read(len(_HEADER))
    except OSError as exc:
        raise _unusable(file, f"cannot be opened for writing ({exc.strerror}). Give this user access") from exc
    if head and head != _HEADER:
        raise _unusable(file, "is not an SQLite database. Give the path of another file; this one was left as it is")
    return warnings


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
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return kind_at(os.path.realpath(file), lines)


def kind_at(path: str, mounts: Iterable[str]) -> str | None:
    """The kind of the last mount whose folder holds `path`; later mounts of a folder cover earlier ones."""
    found, found_length = None, -1
    for line in mounts:
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        folder = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        holds = path == folder or path.startswith(folder if folder.endswith("/") else f"{folder}/")
        if holds and len(folder) >= found_length:
            found, found_length = right.split(" ")[0], len(folder)
    return found


class Identity:
    """The file that was opened: `path` must go on leading to it, or two worlds of jobs come to be."""

    def __init__(self, file: str) -> None:
        self._file = file
        found = Path(file).stat()
        self._inode = (found.st_dev, found.st_ino)

    def check(self) -> None:
        """Raises StoreUnusable once the path leads to another file, or to none."""
        try:
            found = os.stat(self._file)  # noqa: PTH116 - on the hot path; Path costs four times as much
            if (found.st_dev, found.st_ino) == self._inode:
                return
            problem = "was replaced by another file"
        except FileNotFoundError:
            problem = "was deleted or moved away"
        except OSError as exc:
            problem = f"cannot be reached any more ({exc.strerror})"
        raise _unusable(self._file, f"{problem} while it was open. Put it back, or restart with the right path")


def _unusable(file: str, problem: str) -> StoreUnusable:
    return StoreUnusable(f"{file}: {problem}", file=file)
