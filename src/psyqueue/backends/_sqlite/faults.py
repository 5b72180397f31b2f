"""What SQLite says went wrong, in the words of psyqueue. Nothing of `sqlite3` leaves this package but as a cause."""

from __future__ import annotations

import errno
import sqlite3

from psyqueue.errors import PsyQueueError, StoreBusy, StoreError, StoreFull, StoreUnavailable, StoreUnusable, TooLarge

_BUSY = frozenset((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED))
_UNUSABLE = {
    sqlite3.SQLITE_READONLY: "cannot be written. Give this user write access to the file and to its folder",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened. Look at the rights of the file and of its folder, and whether "
    "this process has too many files open",
    sqlite3.SQLITE_PERM: "cannot be opened. Look at the rights of the file and of its folder",
    sqlite3.SQLITE_AUTH: "cannot be opened. Look at the rights of the file and of its folder",
    sqlite3.SQLITE_CORRUPT: "is damaged. Stop every process that uses it and restore it from a copy, "
    "or read what is left with `sqlite3 FILE .recover`",
    sqlite3.SQLITE_NOTADB: "is not an SQLite database. Give the path of another file; this one was left as it is",
}


_NO_HANDLES = frozenset((errno.EMFILE, errno.ENFILE))
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT)) if hasattr(errno, "EDQUOT") else frozenset((errno.ENOSPC,))


def way_out_of(exc: OSError) -> str:
    """What to do about a file that the system does not open."""
    if exc.errno in _NO_HANDLES:
        return "Raise the limit of open files, or find what leaves them open"
    if exc.errno in _NO_ROOM:
        return "Free some room on the disk"
    return "Give this user access to it"


def translate(exc: sqlite3.Error, file: str) -> PsyQueueError:
    """The error to raise `from exc`. SQLite rolled the step back, except where the outcome is said to be unknown."""
    code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    primary = code & 0xFF
    name = getattr(exc, "sqlite_errorname", "SQLITE_ERROR")
    if code == sqlite3.SQLITE_BUSY_SNAPSHOT:
        return StoreBusy(
            f"{file} was written by somebody else after your own transaction had read it, so SQLite lets that write no "
            "more; nothing was written. Roll it back and repeat it; begun with BEGIN IMMEDIATE it waits for its turn",
            file=file,
        )
    if primary in _BUSY:
        return busy(file)
    if primary == sqlite3.SQLITE_FULL:
        text = f"{file}: the disk (or the file's allowed size) is full; nothing was written. Free some room and repeat"
        return StoreFull(text, file=file)
    if primary in _UNUSABLE:
        return StoreUnusable(f"{file} {_UNUSABLE[primary]} ({name})", file=file)
    if primary == sqlite3.SQLITE_TOOBIG:
        return TooLarge(f"{file}: a value is larger than SQLite can hold", file=file)
    if primary == sqlite3.SQLITE_IOERR:
        text = f"{file}: the disk failed while it was read or written ({name}: {exc}). Repeat the same call to find out"
        return StoreUnavailable(text, file=file)
    return StoreUnavailable(f"{file}: {name}: {exc}", outcome="refused", file=file)


def busy(file: str) -> StoreError:
    return StoreBusy(
        f"{file} stayed locked for longer than busy_timeout; nothing was written. Most likely another connection holds "
        "a write transaction; inside your own transaction pass conn=. Else some process is stopped or very slow",
        file=file,
    )
