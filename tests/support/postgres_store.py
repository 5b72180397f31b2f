"""PostgreSQL stores for the conformance suite and the model's race, one after the other in one schema."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from psyqueue.backend import BackendAdapter
from psyqueue.backends._postgres import PostgresBackend, PostgresOptions
from psyqueue.backends._postgres.marks import Marks
from psyqueue.testing.conformance import BackendFactory, Transaction
from support.postgres_reuse import Schema


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


def postgres_factory(schema: Schema, marks: type[Marks] = Marks, **options: Any) -> BackendFactory:
    """Stores in the schema, each over when the next begins. `marks`: of each client."""

    def options_in(place: Schema) -> PostgresOptions:
        return PostgresOptions(
            **{"connection_string": place.url, **options},
            schema=place.name,
            application_name=place.name,
            test_clock=True,
        )

    given = options_in(schema)

    async def opened(there: PostgresOptions = given) -> BackendAdapter:
        backend = PostgresBackend(there, marks())
        await backend.connect()
        return backend

    async def fresh() -> BackendAdapter:
        await schema.renew()
        return await opened()

    async def beside() -> BackendAdapter:
        await schema.beside().renew()
        return await opened(options_in(schema.beside()))

    async def again(_: BackendAdapter) -> BackendAdapter:
        return await opened()

    @asynccontextmanager
    async def transaction(_: BackendAdapter) -> AsyncIterator[Transaction]:
        cache_size = 100 if given.prepared else 0
        connection = await asyncpg.connect(given.connection_string, statement_cache_size=cache_size)
        try:
            made = _Transaction(connection)
            await made.begin()
            yield made
        finally:
            await connection.close()

    return BackendFactory(fresh=fresh, beside=beside, again=again, transaction=transaction)
