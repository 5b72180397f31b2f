"""What `psyqueue schema` does on a PostgreSQL store: on a connection of its own, whether a store is there or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from psyqueue.backend.state_rules import TEST_EPOCH_MS
from psyqueue.backends._postgres import upgrade
from psyqueue.backends._postgres.connecting import connect
from psyqueue.backends._postgres.facts import facts_of, require_usable
from psyqueue.backends._postgres.faults import CALL_ERRORS, translate
from psyqueue.backends._postgres.options import PostgresOptions
from psyqueue.backends._postgres.schema import Release, facts_frame, this_release
from psyqueue.backends.migrations import SchemaStatus, SetLine, compared

_UPGRADE_LIMIT = "10m"
"""An index on a large table takes longer than any step."""


class Administration:
    def __init__(self, options: PostgresOptions, release: Release | None = None) -> None:
        self._options = options
        self._release = release or this_release()

    async def status(self) -> SchemaStatus:
        """Writes nothing. Raises StoreError, SchemaTooNew."""
        async with self._connected(self._options) as connection:
            return await self._look(connection)

    async def up(self, role: str | None = None, unused_ms: int = upgrade.UNUSED_MS) -> SchemaStatus:
        """Make what is missing; `role` gets the rights to work. Raises StoreError, SchemaTooNew."""
        options = replace(self._options, statement_timeout=_UPGRADE_LIMIT)
        async with self._connected(options) as connection:
            await upgrade.bring_up(connection, options, self._release, TEST_EPOCH_MS, unused_ms=unused_ms, role=role)
            return await self._look(connection)

    def script(self, role: str | None = None) -> str:
        """What `up` does, for psql. Connects to nothing."""
        return upgrade.script(self._options.schema, self._release, role)

    @asynccontextmanager
    async def _connected(self, options: PostgresOptions) -> AsyncIterator[Any]:
        connection = await connect(options)
        try:
            (row,) = await connection.fetch(facts_frame())
            require_usable(facts_of(row), options)
            yield connection
        except CALL_ERRORS as exc:
            raise translate(exc, options.place) from exc
        finally:
            connection.terminate()

    async def _look(self, connection: Any) -> SchemaStatus:
        found = await upgrade.look(connection, self._options, self._release)
        rows = await upgrade.sets(connection, self._options) if found.ledger else ()
        changes = compared(self._release.migrations, found.ledger, found.missing)
        return SchemaStatus(found.gaps, changes, [self._set_of(row) for row in rows])

    def _set_of(self, row: Any) -> SetLine:
        is_ours = row["suffix"] == self._release.functions.suffix
        return SetLine(row["suffix"], row["version"], row["number"], is_ours, row["made_at"], row["seen_at"])
