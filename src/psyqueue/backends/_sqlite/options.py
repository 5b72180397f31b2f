from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from psyqueue.clock import Duration, to_ms
from psyqueue.errors import InvalidOption

MEMORY = ":memory:"
_MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteOptions:
    """How one SQLite store is opened.

    `path`: the file, or `":memory:"` for a store that goes with the process. `durability`: "full" survives a power
    loss, "normal" the death of processes. `busy_timeout`: how long a call waits for the file while others write.
    `test_clock`: the store's clock stands still and is moved by tests. `allow_network_filesystem`: open the file
    although its folder is mounted from another machine; SQLite's locks do not hold there, and jobs can be lost or run
    twice.
    """

    path: str | os.PathLike[str]
    durability: Literal["full", "normal"] = "full"
    busy_timeout: Duration = "10s"
    test_clock: bool = False
    allow_network_filesystem: bool = False
    busy_timeout_ms: int = field(init=False)

    def __post_init__(self) -> None:
        """Raises InvalidOption."""
        path = self.path if isinstance(self.path, str) else _text_of(self.path)
        problem = _path_problem(path)
        if problem:
            raise InvalidOption("path", self.path, *problem)
        if self.durability not in ("full", "normal"):
            raise InvalidOption("durability", self.durability, "is unknown", 'Give "full" or "normal"')
        for option in ("test_clock", "allow_network_filesystem"):
            if not isinstance(getattr(self, option), bool):
                raise InvalidOption(option, getattr(self, option), "is not a bool")
        object.__setattr__(self, "path", path if path == MEMORY else str(Path(path).expanduser().resolve()))
        object.__setattr__(self, "busy_timeout_ms", to_ms("busy_timeout", self.busy_timeout, minimum_ms=1))
        if self.busy_timeout_ms > 10 * _MINUTE_MS:
            raise InvalidOption("busy_timeout", self.busy_timeout, "is more than ten minutes")

    @property
    def is_memory(self) -> bool:
        return self.path == MEMORY

    @property
    def file(self) -> str:
        """The path with links resolved, or `:memory:`: whoever uses another link has to meet the same lock file."""
        return str(self.path)


def _text_of(path: object) -> str:
    try:
        return os.fspath(path) if isinstance(path, os.PathLike) else ""
    except TypeError:
        return ""


def _path_problem(path: object) -> tuple[str, str] | None:
    way_out = 'Give the path of a file, such as "./jobs.db", or ":memory:"'
    if not isinstance(path, str) or not path:
        return "is not a path", way_out
    if "\0" in path:
        return "holds a NUL character", way_out
    if path.startswith(("file:", "sqlite:")):
        return "is an address, not a path", way_out
    return None
