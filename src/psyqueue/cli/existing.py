"""From an address to a store, and whether it is there."""

from __future__ import annotations

from dataclasses import replace

from psyqueue import PsyQueue
from psyqueue.backend import BackendAdapter
from psyqueue.cli.kinds import kind_of
from psyqueue.cli.postgres_store import postgres_options
from psyqueue.cli.redis_store import redis_options, require_namespace
from psyqueue.cli.sqlite_store import require_file, sqlite_file, sqlite_options
from psyqueue.moving.backend import MovingBackend


def backend_at(url: str) -> BackendAdapter:
    """The store at a URL, not connected. Raises ConfigError."""
    backend: BackendAdapter = PsyQueue.from_url(url).get_exposed("backend")
    return backend


def as_it_is(backend: BackendAdapter) -> BackendAdapter:
    """The same store once more, apart from whoever made `backend`: of PostgreSQL, no schema is made or upgraded.

    Options that belong to a running application, such as a pool, are left out. A store of another package is not opened
    again: it is `backend` itself.
    """
    if (on_postgres := postgres_options(backend)) is not None:
        from psyqueue.backends._postgres import PostgresBackend  # noqa: PLC0415 - only for PostgreSQL stores

        return PostgresBackend(replace(on_postgres, schema_policy="require", pool=None))
    if (on_redis := redis_options(backend)) is not None:
        from psyqueue.backends._redis import RedisBackend  # noqa: PLC0415 - only for Redis stores

        return RedisBackend(on_redis)
    if (on_sqlite := sqlite_options(backend)) is not None:
        from psyqueue.backends._sqlite import SqliteBackend  # noqa: PLC0415 - only for SQLite stores

        return SqliteBackend(on_sqlite)
    if isinstance(backend, MovingBackend):
        return MovingBackend(as_it_is(backend.routes.old), as_it_is(backend.routes.new))
    return backend


def is_in_memory(backend: BackendAdapter) -> bool:
    """Its jobs are in one process, which nobody else can look into."""
    on_sqlite = sqlite_options(backend)
    return kind_of(backend) == "memory" or (on_sqlite is not None and on_sqlite.is_memory)


def require_store(backend: BackendAdapter) -> None:
    """Raises StoreUnusable where there is no psyqueue store yet: commands that look or change never make one."""
    if isinstance(backend, MovingBackend):
        return  # until its move begins, the new one may be missing; which of the two has to be there, it says itself
    file = sqlite_file(backend)
    if file is not None:
        require_file(file)
    options = redis_options(backend)
    if options is not None:
        require_namespace(options)
