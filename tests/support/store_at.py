"""A store by its place, so that a place fits on a command line.

A file of SQLite, `redis://host:port/db#prefix` or `postgresql://user@host:port/database#schema`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psyqueue.backends import BackendPlugin, postgres, redis, sqlite


def place_on(url: str, name: str) -> str:
    """The place of one store on that server: `name` is the prefix of its keys, or its schema."""
    return f"{url}#{name}"


def store_at(place: str | Path, **options: Any) -> BackendPlugin:
    """A plugin; `options` are those of its backend. A file's durability is "normal": no test cuts the power."""
    url, _, name = str(place).partition("#")
    if url.startswith("postgres"):
        return postgres(url=url, schema=name or "psyqueue", **options)
    if "://" in url:
        return redis(url=url, key_prefix=name or "psyqueue:", **options)
    return sqlite(url, **{"durability": "normal", **options})


def url_of(place: str) -> str:
    """The same store as the command line is told of it."""
    url, _, name = place.partition("#")
    if "://" not in url:
        return f"sqlite:{url}"
    option = "schema" if url.startswith("postgres") else "key_prefix"
    return f"{url}?{option}={name}" if name else url
