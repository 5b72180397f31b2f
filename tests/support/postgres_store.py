"""PostgreSQL stores for the conformance suite and the model's race: each in a schema of its own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from psyqueue.backend import BackendAdapter
from psyqueue.backends._postgres import PostgresBackend, PostgresOptions
from psyqueue.backends._postgres.marks import Marks
from psyqueue.testing.conformance import BackendFactory, Transaction

_numbers = itertools.count()


class _Transaction:
    """A transaction of the caller's own."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection: object = connection
        self._transaction = connection.transaction()

    async def begin(self) -> None:
        await self._transaction.start()

    async def commit(self) -> None:
        await self._transaction.commit()

    async def rollback(self) -> None:
        await self._transaction.rollback()


def postgres_factory(
    url: str,
    namespace: str,
    marks: type[Marks] = Marks,
    *,
    before: Callable[[str], Awaitable[None]] | None = None,
    **options: Any,
) -> BackendFactory:
    """Stores on the server at `url`; the names of their schemas begin with `namespace`.

    `marks`: of each client. `before`: called with the name of a schema before a new store is opened in it.
    """
    schemas: dict[int, str] = {}

    async def opened(schema: str) -> BackendAdapter:
        given = PostgresOptions(connection_string=url, schema=schema, test_clock=True, **options)
        backend = PostgresBackend(given, marks())
        await backend.connect()
        schemas[id(backend)] = schema
        return backend

    async def fresh() -> BackendAdapter:
        schema = f"{namespace}_{next(_numbers)}"
        if before is not None:
            await before(schema)
        return await opened(schema)

    async def again(first: BackendAdapter) -> BackendAdapter:
        return await opened(schemas[id(first)])

    @asynccontextmanager
    async def transaction(_: BackendAdapter) -> AsyncIterator[Transaction]:
        connection = await asyncpg.connect(url, statement_cache_size=100 if options.get("prepared", True) else 0)
        try:
            made = _Transaction(connection)
            await made.begin()
            yield made
        finally:
            await connection.close()

    return BackendFactory(fresh=fresh, again=again, transaction=transaction)
