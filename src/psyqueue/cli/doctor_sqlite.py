"""What an SQLite store needs from its file, its folder and its machine."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from psyqueue.backends._sqlite.connection import VERSION_MIN, WAL_PAGES_MAX, open_connection
from psyqueue.backends._sqlite.options import SqliteOptions
from psyqueue.backends._sqlite.place import DOUBTFUL, NETWORK, file_system_of
from psyqueue.cli.findings import Finding, finding
from psyqueue.cli.sqlite_store import open_read_only

FREE_BYTES_MIN = 256 << 20
WAL_BYTES_MAX = 8 * WAL_PAGES_MAX * 4096
"""Eight times the size at which it is written back: something keeps that from happening."""
PROBLEMS_SHOWN_MAX = 5
_SIDES = ("", "-wal", "-shm", "-lock")


def sqlite_findings(file: Path) -> Iterator[Finding]:
    """Without opening it for writing: also a store that is damaged or in use can be looked at."""
    yield _version()
    yield _file_system(file)
    yield _permissions(file)
    yield _folder(file.parent)
    yield _free_space(file)
    yield _wal_size(file)
    yield from _inside(file)


def _version() -> Finding:
    found, least = sqlite3.sqlite_version, ".".join(map(str, VERSION_MIN))
    is_new = sqlite3.sqlite_version_info >= VERSION_MIN
    return finding("sqlite version", is_new, f"{found} ({least} or newer is needed)", "Use a newer Python")


def _file_system(file: Path) -> Finding:
    kind = file_system_of(str(file))
    if kind in NETWORK:
        advice = "SQLite's locks do not hold there: jobs can be lost or run twice. Move the file to a local disk"
        return Finding("file system", False, f"{kind}, which is another machine's", advice)
    if kind in DOUBTFUL:
        return Finding("file system", True, f"{kind}: never open the file from host and guest at the same time")
    return Finding("file system", True, f"{kind}, local" if kind else "not told by this system")


def _permissions(file: Path) -> Finding:
    """Payloads are often personal: other users of the machine must not read them, nor change jobs."""
    open_ones: list[str] = []
    for side in _SIDES:
        path = file.with_name(file.name + side)
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & (stat.S_IROTH | stat.S_IWOTH):
                open_ones.append(f"{path.name} {mode:04o}")
    detail = ", ".join(open_ones) if open_ones else f"{stat.S_IMODE(file.stat().st_mode):04o}"
    advice = f"Every user of this machine can read the jobs: chmod o-rwx {file}*"
    return finding("file permissions", not open_ones, detail, advice)


def _folder(folder: Path) -> Finding:
    """Who may write in it may put another file in the place of ours; a sticky one keeps that to the owner."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    is_open = bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX
    advice = f"Every user of this machine can delete or replace the jobs: chmod o-w {folder}"
    return finding("folder permissions", not is_open, f"{mode:04o}", advice)


def _free_space(file: Path) -> Finding:
    free = shutil.disk_usage(file.parent).free
    advice = "Without room nothing can be enqueued or acknowledged: free some, or purge dead jobs"
    return finding("free disk space", free >= FREE_BYTES_MIN, f"{free >> 20:,} MiB", advice)


def _wal_size(file: Path) -> Finding:
    wal = file.with_name(file.name + "-wal")
    size = wal.stat().st_size if wal.exists() else 0
    advice = (
        "A process that is stopped, or that reads without an end, keeps it from being written back: find and end it"
    )
    return finding("wal size", size <= WAL_BYTES_MAX, f"{size >> 10:,} KiB", advice)


def _inside(file: Path) -> Iterator[Finding]:
    try:
        with contextlib.closing(open_read_only(file)) as connection:
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            yield finding(
                "journal mode", mode == "wal", str(mode), "Open it with psyqueue once, in a folder it may write"
            )
            rows = connection.execute(f"PRAGMA quick_check({PROBLEMS_SHOWN_MAX})").fetchall()
    except sqlite3.Error as exc:
        advice = "Stop every process that uses it and restore a copy, or read what is left with `sqlite3 FILE .recover`"
        yield Finding("integrity", False, f"cannot be read: {exc}", advice)
        return
    problems = [str(text) for (text,) in rows if text != "ok"]
    advice = "Stop every process that uses it and restore a copy, or read what is left with `sqlite3 FILE .recover`"
    yield finding("integrity", not problems, "; ".join(problems) or "every page is sound", advice)


def synchronous_finding(options: SqliteOptions, power_loss: str) -> Finding:
    """Whether connections as psyqueue opens them do what the store claims."""
    is_full = options.durability == "full"
    with contextlib.closing(open_connection(options, read_only=True)) as connection:
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
    names = {0: "off", 1: "normal", 2: "full", 3: "extra"}
    found = names.get(level, str(level))
    is_kept = level >= (2 if is_full else 1) and (power_loss == "safe") == is_full
    detail = f"{found}; durability={options.durability}, after a power loss: {power_loss.replace('_', ' ')}"
    return finding(
        "synchronous", is_kept, detail, "The promise is not kept by this build of SQLite: use another Python"
    )
