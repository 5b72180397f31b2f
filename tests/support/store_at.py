"""A store by its place, so that a place fits on a command line: a file of SQLite, or `redis://host:port/db#prefix`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psyqueue.backends import BackendPlugin, redis, sqlite


def place_on(url: str, prefix: str) -> str:
    """The place of the store whose keys begin with `prefix`, on that server."""
    return f"{url}#{prefix}"


def store_at(place: str | Path, **options: Any) -> BackendPlugin:
    """A plugin; `options` are those of its backend. A file's durability is "normal": no test cuts the power."""
    url, _, prefix = str(place).partition("#")
    if "://" in url:
        return redis(url=url, key_prefix=prefix or "psyqueue:", **options)
    return sqlite(url, **{"durability": "normal", **options})
