"""Which files the demo counts: by default every Python source that this interpreter could import."""

from __future__ import annotations

import os
import stat
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from psyqueue.errors import ConfigError

LIBRARY_BYTES_MAX = 44_000_000
"""Of the interpreter's library. Some environments hold gigabytes; a MB takes a core some 0.4 s."""
_TEXT_PROBE_BYTES = 4_096
_SKIPPED_FOLDERS = frozenset(("__pycache__", ".git", ".hg", ".svn"))
_OTHERS_PACKAGES = frozenset(("site-packages", "dist-packages"))


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file as it was found; `size_bytes` and `changed_at_ns` are the expectation that the results are held to."""

    path: str
    size_bytes: int
    changed_at_ns: int
    is_python: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """`what` says in words what was selected; `left_out` counts files that cannot be read or would be too many."""

    files: tuple[SourceFile, ...]
    what: str
    left_out: int

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def select(path: Path | None) -> Selection:
    """The files to count, each once. Raises ConfigError where there is none."""
    selection = _library() if path is None else _folder(path)
    if not selection.files:
        raise ConfigError(f"no file to count in {path}. Give --path a folder with Python or text files")
    return selection


def is_unchanged(file: SourceFile) -> bool:
    """Whether it is still what was found."""
    try:
        found = Path(file.path).stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (file.size_bytes, file.changed_at_ns)


def _library() -> Selection:
    standard = os.path.realpath(sysconfig.get_path("stdlib"))
    installed = dict.fromkeys(os.path.realpath(sysconfig.get_path(name)) for name in ("purelib", "platlib"))
    # Below the standard library may lie the packages of another environment, which this one does not import.
    paths = [*_walk(standard, skipped=_SKIPPED_FOLDERS | _OTHERS_PACKAGES)]
    for folder in installed:
        paths += _walk(folder)
    found = _regular(path for path in paths if path.endswith(".py"))
    kept: list[SourceFile] = []
    room = LIBRARY_BYTES_MAX
    for file in found.files:
        if file.size_bytes <= room:
            kept.append(file)
            room -= file.size_bytes
    too_many = len(found.files) - len(kept)
    what = "Python sources of this interpreter: its standard library and its installed packages"
    return Selection(files=tuple(kept), what=what, left_out=found.left_out + too_many)


def _folder(path: Path) -> Selection:
    if path.is_file():
        return _regular([str(path.absolute())], what=f"file: {path}")
    everything = list(_walk(str(path.absolute())))
    sources = [name for name in everything if name.endswith(".py")]
    if sources:
        return _regular(sources, what=f"Python sources below {path}")
    return _regular((name for name in everything if _is_text(name)), what=f"text files below {path}")


def _walk(folder: str, skipped: frozenset[str] = _SKIPPED_FOLDERS) -> Iterator[str]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in skipped)
        yield from (f"{where}/{name}" for name in sorted(names))


def _regular(paths: Iterable[str], what: str = "") -> Selection:
    """Regular files that can be read, each once, however many names it has."""
    found: dict[tuple[int, int], SourceFile] = {}
    left_out = 0
    for path in paths:
        try:
            facts = os.stat(path)  # noqa: PTH116 - many thousands; Path costs four times as much
            path.encode()
        except (OSError, UnicodeEncodeError):
            left_out += 1
            continue
        if not stat.S_ISREG(facts.st_mode) or not os.access(path, os.R_OK):
            left_out += 1
            continue
        file = SourceFile(path, facts.st_size, facts.st_mtime_ns, path.endswith(".py"))
        found.setdefault((facts.st_dev, facts.st_ino), file)
    return Selection(files=tuple(found.values()), what=what, left_out=left_out)


def _is_text(path: str) -> bool:
    try:
        with Path(path).open("rb") as opened:
            return b"\0" not in opened.read(_TEXT_PROBE_BYTES)
    except OSError:
        return False
