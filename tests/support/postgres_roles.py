"""The two roles of docs/backends/postgres.md, made as the page says, for one test."""

from __future__ import annotations

from urllib.parse import urlsplit

import asyncpg

from psyqueue.backends._postgres import PostgresBackend, PostgresOptions
from support.postgres_page import documented_sql, in_schema

(MAKE,) = documented_sql("by an administrator")
GRANTS, AUDIT = documented_sql("by psyqueue_owner")


class Roles:
    """`psyqueue_owner` and `psyqueue_app` under names of the test's own, and the schemas made for it."""

    def __init__(self, url: str, namespace: str, grants: str = GRANTS) -> None:
        self.url = url
        self.grants = grants
        self.names = {"psyqueue_owner": f"{namespace}_owner", "psyqueue_app": f"{namespace}_app"}
        self._schemas: list[str] = []

    def url_of(self, role: str) -> str:
        place = urlsplit(self.url)
        return place._replace(netloc=f"{self.names[role]}:secret@{place.netloc.rpartition('@')[2]}").geturl()

    async def run(self, role: str | None, sql: str, schema: str = "") -> None:
        """As the role, or as an administrator."""
        connection = await asyncpg.connect(self.url if role is None else self.url_of(role))
        try:
            await connection.execute(in_schema(sql, schema, **self.names))
        finally:
            await connection.close()

    async def begin(self, schema: str) -> None:
        """What the administrator does; the roles are made once. Functions are closed to the public, to be sure."""
        lines = MAKE.splitlines(keepends=True)
        await self.run(None, "".join(line for line in lines if "ROLE" not in line or not self._schemas), schema)
        if not self._schemas:
            hide = "ALTER DEFAULT PRIVILEGES FOR ROLE psyqueue_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC"
            await self.run(None, hide)
        self._schemas.append(schema)

    async def prepare(self, schema: str) -> None:
        """A store of tests in the schema, and the application's rights on it."""
        await self.begin(schema)
        options = PostgresOptions(connection_string=self.url_of("psyqueue_owner"), schema=schema, test_clock=True)
        owner = PostgresBackend(options)
        await owner.connect()
        await owner.disconnect()
        await self.run("psyqueue_owner", self.grants, schema)

    async def drop(self) -> None:
        if self._schemas:
            await self.run(None, "DROP OWNED BY psyqueue_app, psyqueue_owner CASCADE")
            await self.run(None, "DROP ROLE psyqueue_app, psyqueue_owner")
