"""Datagrams between processes: who sleeps hears of it at once. Nothing of it is truth; a lost one costs half a second.

Each process that waits has a socket in a folder beside the database. The name of the socket says what its process waits
for, as a mask of 64 bits, so that a sender reaches only those that care, and reaches nobody when nobody sleeps:
looking for names costs one `stat` while the folder is unchanged.

Tried and left: inotify on the WAL fires before the commit can be seen, and 26 times as often (docs/adr/0004).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

from psyqueue.backends._sqlite.forks import closes_in_child

SOCKET_PATH_BYTES_MAX = 100
"""Systems differ between 104 and 108 bytes, the end mark included."""
_NAME_BYTES = 40
_MASK_DIGITS = 16
_DATAGRAM_BYTES_MAX = 65_536
_FRESH_NS = 50_000_000
"""Folder times are as coarse as the kernel's tick: a folder that changed just now may change again unseen."""
EVERYTHING = (1 << 64) - 1


def folder_for(db_file: str) -> str:
    """`<db>-wake`, or a folder in the temporary one where that path would be too long for a socket."""
    folder = _beside(db_file)
    if len(os.fsencode(folder)) + 1 + _NAME_BYTES <= SOCKET_PATH_BYTES_MAX:
        return folder
    digest = blake2b(os.fsencode(os.path.realpath(db_file)), digest_size=8).hexdigest()
    return str(Path(tempfile.gettempdir()) / f"psyqueue-{os.getuid() if hasattr(os, 'getuid') else 0}-{digest}")


def leave(db_file: str) -> None:
    """A folder in the temporary one goes with the last of those who used it; beside the file it may stay."""
    folder = folder_for(db_file)
    if folder != _beside(db_file):
        with contextlib.suppress(OSError):
            os.rmdir(folder)  # noqa: PTH106 - refused while a socket is in it, which is what is wanted


def _beside(db_file: str) -> str:
    return f"{db_file}-wake"


def mask_of(words: Iterable[str]) -> int:
    """One bit for each word; two words may share a bit, which costs a needless look."""
    mask = 0
    for word in words:
        mask |= 1 << (crc32(word.encode()) & 63)
    return mask


class Mailbox:
    """One process's socket of one kind, and its way to those of the others."""

    def __init__(self, folder: str, kind: str, received: Callable[[bytes], None]) -> None:
        self._folder = folder
        self._kind = kind
        self._received = received
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stem = f"{kind}{os.getpid():x}-{os.urandom(4).hex()}-"
        self._name = ""
        self._mask = 0
        self._sender: socket.socket | None = None
        self._is_closed = False
        self._listed_ns = -1
        self._others: list[tuple[int, str]] = []
        closes_in_child(self)

    # ── listening ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def listen(self, mask: int) -> None:
        """From now on datagrams for `mask` are received, in this loop; 0 = none."""
        if self._is_closed or (mask == self._mask and (self._socket is not None or not mask)):
            return
        # Without sockets (another system, a folder that cannot be written) the store is polled: slower, not wrong.
        with contextlib.suppress(OSError, NotImplementedError):
            if self._socket is None:
                self._open(mask)
            else:
                self._rename(mask)
            self._mask = mask

    def _path(self, mask: int) -> str:
        return f"{self._folder}/{self._stem}{mask:0{_MASK_DIGITS}x}"

    def _open(self, mask: int) -> None:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            opened.setblocking(False)
            path = self._path(mask)
            own_folder(self._folder)
            try:
                opened.bind(path)
            except FileNotFoundError:
                # Another process left just now, as the last one, and removed the folder.
                own_folder(self._folder)
                opened.bind(path)
            Path(path).chmod(0o600)
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(opened.fileno(), self._read)
        except BaseException:
            opened.close()
            raise
        self._socket, self._name = opened, path

    def _rename(self, mask: int) -> None:
        renamed = self._path(mask)
        try:
            os.rename(self._name, renamed)  # noqa: PTH104 - on the way to sleep and back
        except FileNotFoundError:
            # Somebody cleared it away: nobody would ever find this socket again.
            self._hang_up()
            self._open(mask)
        else:
            self._name = renamed

    def _read(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(OSError):
            while True:
                self._received(self._socket.recv(_DATAGRAM_BYTES_MAX))

    def close_in_child(self) -> None:
        for each in (self._socket, self._sender):
            if each is not None:
                each.close()
        self._socket = self._sender = None

    def close(self) -> None:
        self._is_closed = True
        self._hang_up()
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def _hang_up(self) -> None:
        if self._socket is None:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        with contextlib.suppress(OSError):
            os.unlink(self._name)  # noqa: PTH108
        self._socket = None

    # ── sending ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def send(self, mask: int, datagram: bytes) -> None:
        """To every other process that listens to a bit of `mask`. Never blocks, never raises."""
        renamed = [path for theirs, path in self._listeners() if theirs & mask and not self._send(path, datagram)]
        if renamed:
            # Somebody waits for more, or for less, than a moment ago: its socket has another name now.
            self._listed_ns = -1
            stems = tuple(path[:-_MASK_DIGITS] for path in renamed)
            for theirs, path in self._listeners():
                if theirs & mask and path.startswith(stems):
                    self._send(path, datagram)

    def is_anybody_there(self, mask: int) -> bool:
        return any(their_mask & mask for their_mask, _ in self._listeners())

    def _listeners(self) -> list[tuple[int, str]]:
        try:
            changed_ns = os.stat(self._folder).st_mtime_ns  # noqa: PTH116 - after every commit
        except OSError:
            return []
        if changed_ns != self._listed_ns:
            self._others = list(self._look(own=self._stem))
            # Kept only once the folder has been quiet for longer than its clock's tick.
            self._listed_ns = changed_ns if time.time_ns() - changed_ns > _FRESH_NS else -1
        return self._others

    def _look(self, own: str) -> Iterable[tuple[int, str]]:
        with contextlib.suppress(OSError):
            for name in os.listdir(self._folder):  # noqa: PTH208
                if name.startswith(self._kind) and not name.startswith(own):
                    with contextlib.suppress(ValueError):
                        yield int(name[-_MASK_DIGITS:], 16), f"{self._folder}/{name}"

    def _send(self, path: str, datagram: bytes) -> bool:
        """False: there is no socket of this name."""
        try:
            if self._sender is None:
                self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._sender.setblocking(False)
            self._sender.sendto(datagram, path)
        except FileNotFoundError:
            return False
        except ConnectionRefusedError:
            # Its process died: nobody else will tidy up.
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108
        except OSError:
            # Full: it has enough to wake up for. Or no handle is free for a socket of ours: it looks by itself.
            pass
        return True


def own_folder(folder: str) -> None:
    """Made if missing, for this user alone. Raises OSError if it belongs to somebody else."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)  # noqa: PTH102
    found = os.lstat(folder)
    if hasattr(os, "getuid") and found.st_uid not in (os.getuid(), 0):
        raise PermissionError(f"{folder} belongs to somebody else")


def prepare(folder: str) -> None:
    """Make the folder, so that a look at it does not fail after each commit, and remove sockets of the dead."""
    with contextlib.suppress(OSError):
        own_folder(folder)
        probe = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            for path in Path(folder).iterdir():
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink(missing_ok=True)
                except OSError:
                    continue
        finally:
            probe.close()
