"""The roles of docs/backends/postgres.md: what the application may not, and that no right of the page is too much.

That its rights are enough is shown by the whole conformance suite (tests/conformance/test_postgres_rights.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from backends.postgres.releases import change, newer
from backends.postgres.stores import connected, opened
from psyqueue.backend import Numbers
from psyqueue.backends._postgres import PostgresOptions, upgrade
from psyqueue.backends._postgres.administration import Administration
from psyqueue.errors import StoreUnusable
from psyqueue.testing.conformance.handle import put
from psyqueue.testing.conformance.modes import switch
from psyqueue.testing.conformance.moving_house import take_in
from support.postgres_page import documented_sql
from support.postgres_roles import GRANTS, Roles
from support.servers import Server
from support.waiting import wait_until

MORE = "CREATE TABLE @schema@.more (n integer); CREATE SEQUENCE @schema@.more_numbers"
USED = "    c := read_clock(true);\n"
NEW = newer(
    "0.2",
    change("more", MORE),
    text=(USED, f"{USED}    INSERT INTO more (n) SELECT nextval('more_numbers'); DELETE FROM more;\n"),
)
"""Its `info` uses what its upgrade has made."""


@pytest.fixture
async def roles_with(postgres_server: Server, namespace: str) -> AsyncIterator[Callable[[str], Roles]]:
    made: list[Roles] = []

    def make(grants: str) -> Roles:
        made.append(Roles(postgres_server.url, namespace, grants))
        return made[-1]

    yield make
    for roles in made:
        await roles.drop()


def test_the_page_prints_what_psyqueue_grants() -> None:
    assert upgrade.grants("psyqueue", "psyqueue_app") + ";\n" == GRANTS


async def work_through_an_upgrade(roles: Roles, schema: str) -> None:
    """As the application, before and after the owner has brought the schema up to date."""
    await roles.prepare(schema)
    app = roles.url_of("psyqueue_app")
    async with opened(app, schema, schema_policy="require") as store, connected(roles.url) as connection:
        await store.add("a")
        await store.write(put("k"))
        assert await store.run() == "a"
        await switch(store, "frozen")
        await take_in(store, Numbers(1_000_000, 0))
        await switch(store, "open")
        await connection.execute(f"""update "{schema}".function_set set seen_at = now() - interval '1 day'""")
    async with opened(app, schema, "again", schema_policy="require") as store:
        await store.backend.prune(10)
    options = PostgresOptions(connection_string=roles.url_of("psyqueue_owner"), schema=schema, test_clock=True)
    await Administration(options, NEW).up()
    async with opened(app, schema, "new", release=NEW, schema_policy="require") as store:
        await store.add("b")


async def test_the_application_works_on_through_an_upgrade(roles_with: Callable[[str], Roles], namespace: str) -> None:
    await work_through_an_upgrade(roles_with(GRANTS), namespace)


LINES = GRANTS.strip().splitlines()
ROWS = "SELECT, INSERT, UPDATE, DELETE ON ALL"
LESS = {line: GRANTS.replace(line, "") for line in LINES if "REVOKE" not in line} | {
    f"without {right}": GRANTS.replace(ROWS, ROWS.replace(f", {right}", "")) for right in ("INSERT", "UPDATE", "DELETE")
}
SEQUENCES = "USAGE, SELECT, UPDATE ON ALL SEQ"
LESS |= {
    f"without {right} on sequences": GRANTS.replace(SEQUENCES, SEQUENCES.replace(f", {right}", ""))
    for right in ("SELECT", "UPDATE")
}


@pytest.mark.parametrize("grants", LESS.values(), ids=LESS.keys())
async def test_no_right_can_be_left_out(roles_with: Callable[[str], Roles], namespace: str, grants: str) -> None:
    with pytest.raises(StoreUnusable, match="schema up --grant ROLE"):
        await work_through_an_upgrade(roles_with(grants), namespace)


async def test_a_connect_that_fails_leaves_no_connection(roles_with: Callable[[str], Roles], namespace: str) -> None:
    """At its last step: the schema may be read, and no function called."""
    roles = roles_with("\n".join(line for line in LINES if "EXECUTE" not in line))
    await roles.prepare(namespace)
    options: dict[str, Any] = {"application_name": namespace, "schema_policy": "require"}
    with pytest.raises(StoreUnusable, match="permission denied for function info"):
        async with opened(roles.url_of("psyqueue_app"), namespace, **options):
            pass

    async def left() -> int:
        async with connected(roles.url) as connection:
            text = "select count(*) from pg_stat_activity where application_name = $1"
            return int(await connection.fetchval(text, namespace))

    assert await asyncio.to_thread(wait_until, lambda: asyncio.run(left()) == 0)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE psyqueue.mine (n integer)",
        "CREATE FUNCTION psyqueue.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "ALTER TABLE psyqueue.job ADD COLUMN mine integer",
        "DROP TABLE psyqueue.job",
        "TRUNCATE psyqueue.job",
        "DROP VIEW psyqueue.jobs",
        "DELETE FROM psyqueue.migration",
        "INSERT INTO psyqueue.migration (number, name, checksum) VALUES (99, 'x', 'x')",
        "UPDATE psyqueue.migration SET checksum = 'x'",
        "DELETE FROM psyqueue.function_set",
        "UPDATE psyqueue.function_set SET number = 99",
    ],
)
async def test_the_application_may_not(roles_with: Callable[[str], Roles], namespace: str, statement: str) -> None:
    roles = roles_with(GRANTS)
    await roles.prepare(namespace)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await roles.run("psyqueue_app", statement, namespace)


async def test_up_gives_the_rights_of_the_page(roles_with: Callable[[str], Roles], namespace: str) -> None:
    roles = roles_with(GRANTS)
    await roles.begin(namespace)
    options = PostgresOptions(connection_string=roles.url_of("psyqueue_owner"), schema=namespace, test_clock=True)
    await Administration(options).up(roles.names["psyqueue_app"])
    async with opened(roles.url_of("psyqueue_app"), namespace, schema_policy="require") as store:
        await store.add("a")
        assert await store.run() == "a"


def test_the_page_has_the_blocks_that_tests_run() -> None:
    assert [len(documented_sql(title)) for title in ("by an administrator", "by psyqueue_owner")] == [1, 2]
