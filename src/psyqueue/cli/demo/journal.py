"""What the handlers themselves say happened: a line when a run begins and one when it ends, apart from the store.

The store's word alone would not prove that nothing ran twice. Each line is one write to a file opened for appending,
which the system does whole and in order.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct


class Entry(Struct, frozen=True, kw_only=True):
    """`fence` tells the deliveries of a job apart; `run_ms` is known at the end."""

    what: Literal["begin", "end"]
    job_id: str
    fence: int
    attempt: int
    pid: int
    at_ms: int
    run_ms: float = 0.0


def append(file: str, entry: Entry) -> None:
    """Add one line."""
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, msgspec.json.encode(entry) + b"\n")
    finally:
        os.close(handle)


class JournalReader:
    """Reads what is new each time. `entries` in the order of writing; `unreadable` counts lines that are none."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0
        self._rest = b""
        self._decode = msgspec.json.Decoder(Entry).decode
        self.entries: list[Entry] = []
        self.unreadable: int = 0

    def read(self) -> list[Entry]:
        """The entries written since the last call."""
        try:
            with self._file.open("rb") as opened:
                opened.seek(self._offset)
                data = opened.read()
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        new = [entry for line in lines if (entry := self._entry(line)) is not None]
        self.entries += new
        return new

    @property
    def unfinished(self) -> int:
        """Bytes of a last line without its end: whoever wrote it did not finish."""
        return len(self._rest)

    def _entry(self, line: bytes) -> Entry | None:
        try:
            return self._decode(line)
        except msgspec.MsgspecError:
            self.unreadable += 1
            return None
