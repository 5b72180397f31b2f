"""The stores: `q.use(sqlite(path="./jobs.db"))`. Each is imported when it is asked for."""

from __future__ import annotations

import os
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import unquote

from psyqueue import errors
from psyqueue.clock import Duration

if TYPE_CHECKING:
    from psyqueue.backend import BackendAdapter

__all__ = ["BackendPlugin", "memory", "postgres", "redis", "sqlite"]


class _Door(Protocol):
    """The part of the kernel's door that a backend needs."""

    def backend(self, adapter: BackendAdapter) -> None: ...


class BackendPlugin:
    """Brings `adapter` to a queue."""

    provides = "backend"

    def __init__(self, name: str, adapter: BackendAdapter) -> None:
        self.name = name
        self.adapter = adapter

    def init(self, kernel: _Door) -> None:
        """Install the adapter."""
        kernel.backend(self.adapter)


def memory(*, url: str = "memory:", test_clock: bool = False) -> BackendPlugin:
    """All jobs in this process, gone with it: for tests and trials. Raises ConfigError for an address."""
    from psyqueue.backends._memory import MemoryBackend  # noqa: PLC0415 - only what is used is loaded

    if url not in ("memory:", "memory://"):
        raise errors.ConfigError(f"{url!r}: a memory store has no address, write 'memory:'")
    return BackendPlugin("backend-memory", MemoryBackend(test_clock=test_clock))


def postgres(
    url: str | None = None,
    *,
    connection_string: str | None = None,
    host: str = "localhost",
    port: int = 5432,
    database: str | None = None,
    user: str | None = None,
    password: str | None = None,
    ssl: bool | SSLContext = False,
    ssl_ca: str | os.PathLike[str] | None = None,
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-full"] | None = None,
    max_size: int = 10,
    schema: str = "psyqueue",
    schema_policy: Literal["create", "require"] = "create",
    pool: Any = None,
    connect_timeout: Duration = "5s",
    statement_timeout: Duration = "30s",
    application_name: str = "psyqueue",
    prepared: bool = True,
    test_clock: bool = False,
) -> BackendPlugin:
    """All jobs in one schema of a PostgreSQL database, for any number of machines.

    `url` (or `connection_string`), "postgresql://user:password@host:port/database", overrides what it names of
    host, port, database, user and password. Raises InvalidOption, and MissingExtra without the extra `postgres`.
    """
    try:
        from psyqueue.backends._postgres import (  # noqa: PLC0415 - only what is used is loaded
            PostgresBackend,
            PostgresOptions,
        )
    except ModuleNotFoundError as exc:
        if exc.name != "asyncpg":
            raise
        raise errors.MissingExtra("the PostgreSQL backend", "postgres") from exc

    if url is not None and connection_string is not None:
        raise errors.InvalidOption("url", "***", "is another name of connection_string", "Give one of the two")
    options = PostgresOptions(
        connection_string=connection_string if connection_string is not None else url,
        host=host,
        port=port,
        database=database,
        user=user,
        password=password,
        ssl=ssl,
        ssl_ca=ssl_ca,
        sslmode=sslmode,
        max_size=max_size,
        schema=schema,
        schema_policy=schema_policy,
        pool=pool,
        connect_timeout=connect_timeout,
        statement_timeout=statement_timeout,
        application_name=application_name,
        prepared=prepared,
        test_clock=test_clock,
    )
    return BackendPlugin("backend-postgres", PostgresBackend(options))


def redis(
    url: str | None = None,
    *,
    host: str = "localhost",
    port: int = 6379,
    username: str | None = None,
    password: str | None = None,
    db: int = 0,
    key_prefix: str = "psyqueue:",
    tls: bool = False,
    tls_ca: str | os.PathLike[str] | None = None,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
    tls_verify: bool = True,
    unix_socket: str | os.PathLike[str] | None = None,
    connect_timeout: Duration = "5s",
    timeout: Duration = "10s",
    client: Any = None,
    allow_eviction: bool = False,
    test_clock: bool = False,
) -> BackendPlugin:
    """All jobs on a Redis or Valkey server, for any number of machines. docs/backends/redis.md describes the options.

    `url`, "redis://user:password@host:port/db", "rediss://…" or "unix:///…", overrides what it names. Raises
    InvalidOption, and MissingExtra without the extra `redis`.
    """
    try:
        from psyqueue.backends._redis import RedisBackend, RedisOptions  # noqa: PLC0415 - only what is used is loaded
    except ModuleNotFoundError as exc:
        if exc.name != "hiredis":
            raise
        raise errors.MissingExtra("the Redis backend", "redis") from exc

    options = RedisOptions(
        host=host,
        port=port,
        username=username,
        password=password,
        db=db,
        url=url,
        key_prefix=key_prefix,
        tls=tls,
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_verify=tls_verify,
        unix_socket=unix_socket,
        connect_timeout=connect_timeout,
        timeout=timeout,
        client=client,
        allow_eviction=allow_eviction,
        test_clock=test_clock,
    )
    return BackendPlugin("backend-redis", RedisBackend(options))


def sqlite(
    path: str | os.PathLike[str] | None = None,
    *,
    url: str | None = None,
    durability: Literal["full", "normal"] = "full",
    busy_timeout: Duration = "10s",
    test_clock: bool = False,
    allow_network_filesystem: bool = False,
) -> BackendPlugin:
    """All jobs in one file: no server, many processes of one machine. docs/backends/sqlite.md describes the options.

    `path`: the file, or ":memory:"; `url` is its other form, "sqlite:./jobs.db". Raises InvalidOption.
    """
    from psyqueue.backends._sqlite import SqliteBackend, SqliteOptions  # noqa: PLC0415 - only what is used is loaded

    if (path is None) == (url is None):
        raise errors.InvalidOption("path", path, "is the one thing that sqlite() needs", 'Give path="./jobs.db"')
    options = SqliteOptions(
        path=path if path is not None else _path_in(url or ""),
        durability=durability,
        busy_timeout=busy_timeout,
        test_clock=test_clock,
        allow_network_filesystem=allow_network_filesystem,
    )
    return BackendPlugin("backend-sqlite", SqliteBackend(options))


def _path_in(url: str) -> str:
    """The path of "sqlite:./rel.db", "sqlite:/abs.db", "sqlite:///abs.db" or "sqlite::memory:"; %20 is a space."""
    rest = unquote(url.partition(":")[2])
    if not rest.startswith("//"):
        return rest
    host, slash, path = rest[2:].partition("/")
    if host or not slash:
        raise errors.ConfigError(f"{url!r} names a host; a file is 'sqlite:./relative.db' or 'sqlite:///absolute.db'")
    return f"/{path}"
