"""A schema that tests use one after the other is to each of them a new one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from backends.postgres.stores import connected, opened
from support.names import new_name
from support.postgres_reuse import Schema, reused_schema
from support.postgres_store import postgres_factory
from support.servers import Server

VALUES = {"bool": True, "timestamptz": "2001-02-03T04:05:06Z", "bytea": "\\x00", "_text": ["x"], "_int8": [7]}
"""Something of each type; of the others: 7."""
DEFINITIONS = """
    select 'table', relname::text, concat_ws(' ', relkind, relpersistence, reloptions, relacl)
        from pg_class where relnamespace = {schema}::regnamespace
    union all select 'column', relname || '.' || attname, concat_ws(' ', attnum, atttypid::regtype, attnotnull,
            attidentity, attstorage, attcollation::regcollation, pg_get_expr(adbin, adrelid), attacl)
        from pg_attribute join pg_class as c on c.oid = attrelid
        left join pg_attrdef on adrelid = c.oid and adnum = attnum
        where relnamespace = {schema}::regnamespace and attnum > 0
    union all select 'constraint', conname, pg_get_constraintdef(oid)
        from pg_constraint where connamespace = {schema}::regnamespace
    union all select 'index', indexname, indexdef from pg_indexes where schemaname = {schema}
    union all select 'view', viewname, definition from pg_views where schemaname = {schema}
    union all select 'function', proname, concat_ws(' ', pg_get_functiondef(oid), proacl)
        from pg_proc where pronamespace = {schema}::regnamespace
    order by 1, 2, 3
"""


@pytest.fixture
def schema(postgres_server: Server) -> Iterator[Schema]:
    with reused_schema(postgres_server.url, new_name()) as made:
        yield made


async def names_of(connection: asyncpg.Connection, schema: str, kind: str) -> list[str]:
    asked = "select relname from pg_class where relnamespace = $1::text::regnamespace and relkind = $2 order by 1"
    return [f'"{schema}"."{name}"' for (name,) in await connection.fetch(asked, schema, kind.encode())]


async def contents(connection: asyncpg.Connection, schema: str) -> dict[str, Any]:
    """Rows, without what differs from store to store; sequences; the bytes that tables and indexes take."""
    found: dict[str, Any] = {}
    for table in await names_of(connection, schema, "r"):
        rows = f"select (to_jsonb(t) - array['store_id', 'applied_at', 'made_at', 'seen_at'])::text from {table} as t"
        found[table] = sorted(row for (row,) in await connection.fetch(rows))
    for sequence in await names_of(connection, schema, "S"):
        found[sequence] = await connection.fetch(f"select last_value, is_called from {sequence}")
    sizes = """
        select relname, pg_relation_size(oid), pg_relation_size(reltoastrelid) from pg_class
        where relnamespace = $1::text::regnamespace and relkind in ('r', 'i') order by 1
    """
    return found | {"sizes": await connection.fetch(sizes, schema)}


async def soil(connection: asyncpg.Connection, schema: str) -> None:
    """Other rows in each table than a new store has, and each sequence begun."""
    columns = """
        select attname, typname from pg_attribute join pg_type as t on t.oid = atttypid
        where attrelid = $1::text::regclass and attnum > 0
    """
    for table in await names_of(connection, schema, "r"):
        if table.endswith(('."migration"', '."function_set"')):
            continue
        row = {name: VALUES.get(kind, 7) for name, kind in await connection.fetch(columns, table)}
        row |= {"store_id": "00000000-0000-0000-0000-000000000000"} if "store_id" in row else {}
        await connection.execute(f"delete from {table}")
        made = f"select * from jsonb_populate_record(null::{table}, $1::text::jsonb)"
        await connection.execute(f"insert into {table} overriding system value {made}", json.dumps(row))
        assert await connection.fetchval(f"select count(*) from {table}") == 1
    for sequence in await names_of(connection, schema, "S"):
        await connection.execute("select nextval($1::text::regclass)", sequence)


async def test_a_renewed_schema_is_as_one_just_made(postgres_server: Server, schema: Schema, namespace: str) -> None:
    async with opened(postgres_server.url, namespace), connected(postgres_server.url) as connection:

        async def all_of(name: str) -> str:
            definitions = await connection.fetch(DEFINITIONS.format(schema=f"'{name}'"))
            seen = {"definitions": definitions, **await contents(connection, name)}
            return "\n".join(f"{what}: {each}" for what, of in seen.items() for each in of).replace(name, "schema")

        new = await all_of(namespace)
        assert new.count("\n") > 500
        await schema.renew()
        ids = set()
        for _ in range(2):
            assert await all_of(schema.name) == new
            ids.add(await connection.fetchval(f'select store_id from "{schema.name}".meta'))
            await soil(connection, schema.name)
            assert await all_of(schema.name) != new
            await schema.renew()
        assert len(ids) == 2


async def test_no_store_is_taken_away_from_a_client(schema: Schema) -> None:
    factory = postgres_factory(schema)
    client = await factory.fresh()
    try:
        with pytest.raises(AssertionError, match="somebody is still connected"):
            await schema.renew(within_s=0)
    finally:
        await client.disconnect()
    await schema.renew()
