"""Where the demo keeps its jobs: an SQLite file in its folder, or keys or a schema of its own on a server."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol
from urllib.parse import urlencode

from psyqueue.backend import Info
from psyqueue.cli.existing import backend_at
from psyqueue.cli.postgres_store import postgres_options
from psyqueue.cli.redis_store import redis_options
from psyqueue.config import parse_url
from psyqueue.errors import ConfigError, PsyQueueError
from psyqueue.ids import new_token

DEMO_PREFIX = "psyqueue-demo-"
DEMO_SCHEMA = "psyqueue_demo_"
_SCANNED = 500


class Place(Protocol):
    """`url`: with password. `shown`: without. `words`: behind "3 worker processes on"."""

    url: str
    shown: str

    def words(self, info: Info) -> str: ...

    def remove(self) -> str | None:
        """Take away what no folder holds; blocking. What was left there, in words; None: nothing."""
        ...


class SqlitePlace:
    """A file of the demo's own folder; goes with it."""

    def __init__(self, folder: Path) -> None:
        self.url: str = f"sqlite:{folder}/demo.db"
        self.shown: str = self.url

    def words(self, info: Info) -> str:  # noqa: ARG002 - one for all places
        return "one SQLite file"

    def remove(self) -> None:
        return None


class RedisPlace:
    """Keys below a prefix of this demo alone, behind the prefix that the URL gives."""

    def __init__(self, server: str) -> None:
        parsed = parse_url(server)
        self._place = parsed.shown
        self._prefix = f"{parsed.options.get('key_prefix', '')}{DEMO_PREFIX}{new_token()[:8]}:"
        options = {**parsed.options, "key_prefix": self._prefix}
        self.url: str = f"{parsed.address}?{urlencode(options)}"
        options.pop("password", None)
        self.shown: str = f"{parsed.shown}?{urlencode(options, safe=':')}"

    def words(self, info: Info) -> str:
        return f"{info.store} {info.version} at {self._place}, keys {self._prefix}…"

    def remove(self) -> str | None:
        from psyqueue.backends._redis.blocking import BlockingLink  # noqa: PLC0415 - only for Redis stores
        from psyqueue.backends._redis.faults import ReplyError  # noqa: PLC0415 - as above

        options = redis_options(backend_at(self.url))
        assert options is not None
        pattern = "".join(f"\\{char}" if char in "*?[]\\" else char for char in options.base) + "*"
        try:
            with contextlib.closing(BlockingLink(options.address)) as link:
                cursor: bytes | int = 0
                while True:
                    cursor, keys = link.call("SCAN", cursor, "MATCH", pattern, "COUNT", _SCANNED)
                    if keys:
                        link.call("UNLINK", *keys)
                    if int(cursor) == 0:
                        return None
        except (PsyQueueError, ReplyError) as exc:
            return f"its keys {options.base}* are still there ({exc})"


class PostgresPlace:
    """A schema of this demo alone, whose name begins with the one that the URL gives."""

    def __init__(self, server: str) -> None:
        parsed = parse_url(server)
        self._place = parsed.shown
        before = parsed.options.get("schema")
        self._schema = f"{before}_{DEMO_SCHEMA}" if before else DEMO_SCHEMA
        self._schema += new_token()[:8]
        options = {**parsed.options, "schema": self._schema}
        self.url: str = f"{parsed.address}?{urlencode(options)}"
        options.pop("password", None)
        self.shown: str = f"{parsed.shown}?{urlencode(options)}"

    def words(self, info: Info) -> str:
        return f"{info.store} {info.version} at {self._place}, schema {self._schema}"

    def remove(self) -> str | None:
        from psyqueue.backends._postgres.removal import remove  # noqa: PLC0415 - only for PostgreSQL stores

        options = postgres_options(backend_at(self.url))
        assert options is not None
        try:
            with ThreadPoolExecutor(1) as thread:  # this one has a loop already, whose tasks are being cancelled
                thread.submit(lambda: asyncio.run(remove(options))).result()
        except PsyQueueError as exc:
            return f"its schema {self._schema} is still there ({exc})"
        return None


def place_for(server: str | None, folder: Path) -> Place:
    """The place of one demo."""
    if server is None:
        return SqlitePlace(folder)
    return RedisPlace(server) if postgres_options(backend_at(server)) is None else PostgresPlace(server)


def require_server(url: str) -> str:
    """The URL, if the demo can make keys or a schema of its own there. Raises ConfigError."""
    backend = backend_at(url)
    if redis_options(backend) is None and postgres_options(backend) is None:
        shown = parse_url(url).shown
        text = f"the demo makes a store of its own: it cannot use {shown!r}"
        servers = "'redis://localhost:6379' or 'postgresql://localhost/shop'"
        raise ConfigError(f"{text}. Leave --backend out for SQLite, or name a server, e.g. {servers}")
    backend_at(place_for(url, Path()).url)  # with the longer name, so that it fails here or not at all
    return url
