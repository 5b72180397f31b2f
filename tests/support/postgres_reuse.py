"""One schema that is a new store for one test after the other: to make one costs more than most tests do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from psyqueue.backends._postgres import PostgresBackend, PostgresOptions
from support.waiting import wait_until

_DEFINITIONS: LiteralString = "'migration', 'function_set'"
"""Tables that say what the schema is made of; they stay with it."""
_BY_CHANCE = ("store_id",)
"""Columns that differ from store to store: their defaults fill them anew."""
_FILLED: LiteralString = """
    SELECT c.relname FROM pg_class AS c
    WHERE c.relnamespace = {schema}::regnamespace AND c.relkind = 'r' AND pg_relation_size(c.oid) > 0
        AND c.relname NOT IN ({definitions})
"""
_EMPTY: LiteralString = """
DO $$
BEGIN
    EXECUTE (
        SELECT 'TRUNCATE ' || string_agg(format('%I.%I', {schema}::regnamespace, f.relname), ', ') FROM ({filled}) AS f
    );
    PERFORM setval(s.seqrelid, s.seqstart, false) FROM pg_sequence AS s JOIN pg_class AS c ON c.oid = s.seqrelid
    WHERE c.relnamespace = {schema}::regnamespace;
END $$;
"""


class Schema:
    """Every client in it has the schema's name as `application_name`, so that one who stayed is noticed."""

    def __init__(self, url: str, name: str, make: Callable[[str], Awaitable[None]] | None = None) -> None:
        """`make`: called once, with the name, before there is a store; by default any client may make it."""
        self.name = name
        self.url = url
        self._given = make
        self._make = make or self._by_itself
        self._beside: Schema | None = None
        self._connection = psycopg.connect(url, autocommit=True)
        self._empty: sql.Composed | None = None

    def beside(self) -> Schema:
        """Another one, for a second store while the first is open."""
        if self._beside is None:
            self._beside = Schema(self.url, f"{self.name}_b", self._given)
        return self._beside

    async def renew(self, *, within_s: float = 10.0) -> None:
        """From now on it is a store of tests as one that was just made; the clients of the last one have to be gone."""
        if self._empty is None:
            await self._make(self.name)
            self._empty = self._script()
            return
        assert wait_until(self._is_left, limit_s=within_s), f"somebody is still connected to {self.name}"
        self._connection.execute(self._empty)

    async def _by_itself(self, name: str) -> None:
        backend = PostgresBackend(PostgresOptions(connection_string=self.url, schema=name, test_clock=True))
        await backend.connect()
        await backend.disconnect()

    def _is_left(self) -> bool:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        return self._connection.execute(asked, [self.name]).fetchone() == (0,)

    def _script(self) -> sql.Composed:
        """Empties every table that was filled, and puts back what a new store begins with."""
        schema, definitions = sql.Literal(f'"{self.name}"'), sql.SQL(_DEFINITIONS)
        filled = sql.SQL(_FILLED).format(schema=schema, definitions=definitions)
        tables = [name for (name,) in self._connection.execute(filled).fetchall()]
        empty = sql.SQL(_EMPTY).format(schema=schema, filled=filled)
        return sql.Composed([empty, *(insert for table in tables for insert in self._inserts(table))])

    def _inserts(self, table: str) -> Iterator[sql.Composed]:
        place = sql.Identifier(self.name, table)
        cursor: psycopg.Cursor[Any] = self._connection.execute(sql.SQL("TABLE {}").format(place))
        columns = [column.name for column in cursor.description or ()]
        for row in cursor:
            kept = {name: value for name, value in zip(columns, row, strict=True) if name not in _BY_CHANCE}
            yield sql.SQL("INSERT INTO {} ({}) VALUES ({});").format(
                place,
                sql.SQL(", ").join(map(sql.Identifier, kept)),
                sql.SQL(", ").join(map(sql.Literal, kept.values())),
            )

    def close(self) -> None:
        self._connection.close()
        if self._beside is not None:
            self._beside.close()


@contextmanager
def reused_schema(url: str, name: str, make: Callable[[str], Awaitable[None]] | None = None) -> Iterator[Schema]:
    """A schema for stores of tests, each over when the next begins."""
    schema = Schema(url, name, make)
    try:
        yield schema
    finally:
        schema.close()
