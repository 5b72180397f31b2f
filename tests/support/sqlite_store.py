"""SQLite stores for the conformance suite and the model's race: each in a folder of its own."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

from psyqueue.backend import BackendAdapter
from psyqueue.backends._sqlite import SqliteBackend, SqliteOptions
from psyqueue.testing.conformance import BackendFactory


class _Transaction:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection: object = connection
        self._connection = connection

    async def commit(self) -> None:
        self._connection.commit()

    async def rollback(self) -> None:
        self._connection.rollback()


def sqlite_factory(folder: Path) -> BackendFactory:
    """Stores in files below `folder`. Their durability is "normal": what a power loss does is tested elsewhere."""
    numbers = itertools.count()
    paths: dict[int, Path] = {}

    async def opened(path: Path) -> BackendAdapter:
        backend = SqliteBackend(SqliteOptions(path=path, durability="normal", test_clock=True))
        await backend.connect()
        paths[id(backend)] = path
        return backend

    async def fresh() -> BackendAdapter:
        return await opened(folder / f"{next(numbers)}.db")

    async def again(first: BackendAdapter) -> BackendAdapter:
        return await opened(paths[id(first)])

    @contextlib.asynccontextmanager
    async def transaction(backend: BackendAdapter) -> AsyncIterator[_Transaction]:
        connection = sqlite3.connect(paths[id(backend)], timeout=5)
        try:
            yield _Transaction(connection)
        finally:
            connection.close()

    return BackendFactory(fresh=fresh, again=again, transaction=transaction)


def memory_factory() -> BackendFactory:
    """Stores in `:memory:`, each seen by one client alone."""

    async def fresh() -> BackendAdapter:
        backend = SqliteBackend(SqliteOptions(path=":memory:", test_clock=True))
        await backend.connect()
        return backend

    return BackendFactory(fresh=fresh)
