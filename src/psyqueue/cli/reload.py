"""Which Python files of a folder changed: looked at once a second, for `--reload`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

FILES_MAX = 20_000
"""More files than a project has: somebody started in the wrong folder."""
_SKIPPED = frozenset(("__pycache__", "node_modules", "site-packages", "dist-packages"))

Snapshot = dict[str, int]
"""Path → time of the last change, in nanoseconds."""


def snapshot(folder: Path) -> Snapshot:
    """Every .py file below, without hidden folders, caches and virtual environments."""
    found: Snapshot = {}
    for path in _sources(folder):
        try:
            found[path] = os.stat(path).st_mtime_ns  # noqa: PTH116 - thousands of times a second; Path costs four times as much
        except OSError:
            continue
        if len(found) >= FILES_MAX:
            break
    return found


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    """Paths that are new, gone or written again."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def _sources(folder: Path) -> Iterator[str]:
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_skipped(where, name)]
        yield from (f"{where}/{name}" for name in files if name.endswith(".py"))


def _is_skipped(where: str, name: str) -> bool:
    return name.startswith(".") or name in _SKIPPED or Path(where, name, "pyvenv.cfg").exists()
