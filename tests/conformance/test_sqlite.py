"""SQLite keeps every promise, in a file and in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from psyqueue.backend import BackendAdapter
from psyqueue.backends._sqlite import SqliteBackend, SqliteOptions
from psyqueue.testing.conformance import *  # noqa: F403 - the suite
from psyqueue.testing.conformance import BackendFactory, Transaction


class _Transaction:
    """The caller's own, on a connection of the standard library."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("begin immediate")

    async def commit(self) -> None:
        self.connection.commit()

    async def rollback(self) -> None:
        self.connection.rollback()


def _in_file(path: Path) -> BackendFactory:
    # The conformance suite asks what the store promises, not what a disk survives: "normal" spares the syncs.
    options = SqliteOptions(path=path, durability="normal", test_clock=True)

    async def fresh() -> BackendAdapter:
        backend = SqliteBackend(options)
        await backend.connect()
        return backend

    async def again(_: BackendAdapter) -> BackendAdapter:
        return await fresh()

    @asynccontextmanager
    async def transaction(_: BackendAdapter) -> AsyncIterator[Transaction]:
        own = _Transaction(path)
        try:
            yield own
        finally:
            own.connection.close()

    return BackendFactory(fresh=fresh, again=again, transaction=transaction)


def _in_memory() -> BackendFactory:
    async def fresh() -> BackendAdapter:
        backend = SqliteBackend(SqliteOptions(path=":memory:", test_clock=True))
        await backend.connect()
        return backend

    return BackendFactory(fresh=fresh)


@pytest.fixture(params=["file", "memory"])
def backend_factory(request: pytest.FixtureRequest, tmp_path: Path) -> BackendFactory:
    return _in_file(tmp_path / "jobs.db") if request.param == "file" else _in_memory()
