"""What docs/backends/postgres.md shows, run on a server."""

from __future__ import annotations

import asyncpg
import pytest

from docs.pages import DOCS, blocks
from docs.test_code import assert_printed, run
from psyqueue.backends._postgres.carriers import KINDS
from support.servers import Server

PAGE = DOCS / "backends" / "postgres.md"
PROGRAM = """
import asyncio

URL, SCHEMA = {url!r}, {schema!r}


async def main() -> None:
{code}

asyncio.run(main())
"""


async def test_the_transactions_of_the_page_print_what_they_say(postgres_server: Server, namespace: str, tmp_path):
    (block,) = [each for each in blocks(PAGE) if "conn=" in each.code]
    indented = "".join(f"    {line}" if line.strip() else line for line in block.code.splitlines(keepends=True))
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(url=postgres_server.url, schema=namespace, code=indented), encoding="utf-8")
    connection = await asyncpg.connect(postgres_server.url)
    try:
        await connection.execute("create table shop_order (number int); create table shop_bill (number int)")
        assert_printed(run(["program.py"], tmp_path), block.code)
        orders = await connection.fetch(
            "select number from shop_order union all select number from shop_bill order by 1"
        )
        assert [row[0] for row in orders] == [1, 1, 2, 2]
    finally:
        await connection.execute("drop table if exists shop_order; drop table if exists shop_bill")
        await connection.close()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_connection_is_named(kind: str):
    words = PAGE.read_text(encoding="utf-8")
    module, _, name = kind.rpartition(".")
    assert "out of a pool" in words if name == "PoolConnectionProxy" else f"`{name}`" in words or f".{name}`" in words
    assert {"asyncpg": "asyncpg", "psycopg": "psycopg 3", "sqlalchemy": "SQLAlchemy 2"}[
        module.partition(".")[0]
    ] in words
