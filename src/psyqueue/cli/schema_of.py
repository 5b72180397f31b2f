"""What a schema is on each store: PostgreSQL has one, an SQLite file makes its own, others have none."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any, Protocol

from psyqueue.backend import BackendAdapter
from psyqueue.backends.migrations import SchemaStatus, compared, plan
from psyqueue.cli.kinds import kind_of
from psyqueue.cli.postgres_store import postgres_options
from psyqueue.cli.sqlite_store import holds_store, open_read_only, sqlite_file
from psyqueue.errors import ConfigError, StoreUnusable


class StoreSchema(Protocol):
    """`all_well`: what to say when nothing is missing. `unused_ms_min`: the least that --unused may be."""

    store: str
    all_well: str
    unused_ms_min: int

    async def status(self) -> SchemaStatus:
        """Writes nothing."""
        ...

    async def up(self, role: str | None, unused_ms: int) -> tuple[list[str], SchemaStatus]:
        """What was done, in words, and the status after it."""
        ...

    def script(self, role: str | None) -> str:
        """Raises ConfigError where there is none."""
        ...


def schema_of(backend: BackendAdapter) -> StoreSchema:
    """Of the store that the backend would open. Drivers of other stores are not imported."""
    if (on_postgres := postgres_options(backend)) is not None:
        return _PostgresSchema(on_postgres)
    if (file := sqlite_file(backend)) is not None:
        return _SqliteSchema(backend, file)
    return _NoSchema(kind_of(backend))


class _PostgresSchema:
    all_well = "This release can work with it, also with schema_policy='require'."

    def __init__(self, options: Any) -> None:
        from psyqueue.backends._postgres.administration import Administration  # noqa: PLC0415 - only for PostgreSQL
        from psyqueue.backends._postgres.upgrade import UNUSED_MS_MIN  # noqa: PLC0415 - as above

        self.store = options.place
        self.unused_ms_min = UNUSED_MS_MIN
        self._administration = Administration(options)

    async def status(self) -> SchemaStatus:
        return await self._administration.status()

    async def up(self, role: str | None, unused_ms: int) -> tuple[list[str], SchemaStatus]:
        before = await self.status()
        after = await self._administration.up(role, unused_ms)
        done = _made(before, after)
        had, has = ({line.suffix: line.version for line in status.sets} for status in (before, after))
        done += [f"functions {suffix} of psyqueue {has[suffix]} made" for suffix in sorted(has.keys() - had.keys())]
        done += [f"functions {suffix} of psyqueue {had[suffix]} dropped" for suffix in sorted(had.keys() - has.keys())]
        if role is not None:
            done.append(f"role {role} may work with it")
        return done, after

    def script(self, role: str | None) -> str:
        return self._administration.script(role)


class _SqliteSchema:
    all_well = "This release can work with it."
    unused_ms_min = 1

    def __init__(self, backend: BackendAdapter, file: Path) -> None:
        self.store = str(file)
        self._backend = backend
        self._file = file

    async def status(self) -> SchemaStatus:
        return await asyncio.to_thread(self._status)

    def _status(self) -> SchemaStatus:
        from psyqueue.backends._sqlite.schema import MIGRATIONS, read_ledger  # noqa: PLC0415 - only for SQLite

        if not self._file.exists() or not holds_store(self._file):
            return SchemaStatus(["the file holds no psyqueue store"], compared(MIGRATIONS, (), MIGRATIONS), [])
        try:
            with contextlib.closing(open_read_only(self._file)) as connection:
                ledger = read_ledger(connection)
        except sqlite3.Error as exc:
            raise StoreUnusable(f"{self._file} cannot be read: {exc}", file=str(self._file)) from exc
        missing = plan(MIGRATIONS, ledger, self.store)
        gaps = [f"change {each.number} ({each.name}) is missing" for each in missing]
        return SchemaStatus(gaps, compared(MIGRATIONS, ledger, missing), [])

    async def up(self, role: str | None, unused_ms: int) -> tuple[list[str], SchemaStatus]:
        """Opening the file does it. There are no roles and no functions in it."""
        _refuse_role(role, self.store)
        before = await self.status()
        await self._backend.connect()
        await self._backend.disconnect()
        after = await self.status()
        return _made(before, after), after

    def script(self, role: str | None) -> str:
        text = (
            f"{self.store}: whoever may write an SQLite file may define tables in it. `psyqueue schema up` makes them"
        )
        raise ConfigError(text)


class _NoSchema:
    unused_ms_min = 1

    def __init__(self, kind: str) -> None:
        self.store = kind
        self.all_well = f"A {kind} store has no schema: what it needs it makes when it is used."

    async def status(self) -> SchemaStatus:
        return SchemaStatus([], [], [])

    async def up(self, role: str | None, unused_ms: int) -> tuple[list[str], SchemaStatus]:
        _refuse_role(role, f"a {self.store} store")
        return [], await self.status()

    def script(self, role: str | None) -> str:
        raise ConfigError(f"a {self.store} store has no schema: there is nothing to print")


def _made(before: SchemaStatus, after: SchemaStatus) -> list[str]:
    had = {line.number for line in before.changes if line.state == "applied"}
    return [
        f"schema change {line.number} ({line.name}) made"
        for line in after.changes
        if line.state == "applied" and line.number not in had
    ]


def _refuse_role(role: str | None, store: str) -> None:
    if role is not None:
        raise ConfigError(f"--grant {role}: {store} knows no roles that psyqueue could give rights to")
