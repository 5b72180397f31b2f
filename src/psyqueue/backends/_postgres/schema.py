"""The schema and its functions: what the files say, and how it gets into the database.

Functions have the digest of all of them in their names, and are never replaced: clients of two releases side by side do
not meet, and who adds a function need not think of a version. Tables change by numbered migrations.
"""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha256
from typing import Any, Final, Literal, TypeAlias

from psyqueue.backends._postgres.options import PostgresOptions
from psyqueue.backends.migrations import Applied, load_migrations, plan
from psyqueue.backends.sql_files import load_statements, read_folder
from psyqueue.errors import StoreUnusable

PACKAGE: Final = "psyqueue.backends._postgres"
Style: TypeAlias = Literal["$", "%s"]
"""How a client marks where values go: $1, $2, … or %s each."""
_FRAMES: Final = load_statements(PACKAGE, "frames")
_DEFINED = re.compile(r"^\w+ FUNCTION @schema@\.(\w+)\(([^)]*)\)", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n?", re.MULTILINE)


class Functions:
    """The texts of all functions. `suffix` names the set."""

    def __init__(self) -> None:
        parts = [*read_folder(PACKAGE, "includes").values(), *read_folder(PACKAGE, "commands").values()]
        text = _COMMENT.sub("", "\n".join(part.replace("\r\n", "\n") for part in parts))
        text = text.replace("@settings@", _FRAMES["settings"])
        self.suffix = "_" + sha256(text.encode()).hexdigest()[:8]
        defined = _DEFINED.findall(text)
        self._types = {name: [each.split()[1] for each in given.split(",") if each.strip()] for name, given in defined}
        names = re.compile(rf"\b({'|'.join(sorted(self._types, key=len, reverse=True))})\(")
        self.text = names.sub(rf"\1{self.suffix}(", text)

    def call(self, name: str, schema: str) -> str:
        """The statement that calls one."""
        return self._call(name, schema, [f"${number}" for number in range(1, len(self._types[name]) + 1)])

    def plain_call(self, name: str, schema: str, style: Style) -> str:
        """The same for a connection of somebody else's: it says the types, and jsonb goes as text.

        A client that guesses types from values is helped by that, and one that was told how to write jsonb not asked.
        """
        marks = ("%s" if style == "%s" else f"${number}" for number in range(1, len(self._types[name]) + 1))
        typed = [
            f"{mark}::text::jsonb" if kind == "jsonb" else f"{mark}::{kind}"
            for mark, kind in zip(marks, self._types[name], strict=True)
        ]
        return self._call(name, schema, typed)

    def _call(self, name: str, schema: str, params: list[str]) -> str:
        text = _FRAMES["call"].replace("@name@", name).replace("@v@", self.suffix)
        return filled(text.replace("@params@", ", ".join(params)), schema)


@cache
def functions() -> Functions:
    return Functions()


def filled(text: str, schema: str) -> str:
    """`schema` is an identifier without quotes: options.py saw to it."""
    return (
        text.replace("@schema@", f'"{schema}"')
        .replace("@schema_text@", f"'{schema}'")
        .replace("@channel_text@", f"'{wake_channel(schema)}'")
        .replace("@topic_channel_text@", f"'{topic_channel(schema)}'")
    )


def wake_channel(schema: str) -> str:
    return f"{schema}:wake"


def topic_channel(schema: str) -> str:
    return f"{schema}:topic"


def frame(name: str, schema: str, file: str = "ledger") -> str:
    """A statement of the client's own: a section of a file."""
    return filled(_FRAMES[f"{file}.{name}"], schema)


def facts_frame() -> str:
    return _FRAMES["facts"]


def removal(schema: str) -> str:
    return filled(_FRAMES["remove"], schema)


async def ensure(connection: Any, options: PostgresOptions, test_epoch_ms: int) -> None:
    """Create or upgrade the schema, if anything is missing. Raises StoreUnusable, SchemaTooNew."""
    if not await _is_complete(connection, options):
        async with connection.transaction():
            await _create(connection, options, test_epoch_ms)
    is_test_clock = await connection.fetchval(frame("is_test_clock", options.schema))
    if is_test_clock != options.test_clock:
        made = "with" if is_test_clock else "without"
        raise StoreUnusable(f"{options.place} was made {made} test_clock=True. Open it so, or give another schema")


async def _is_complete(connection: Any, options: PostgresOptions) -> bool:
    """Read only: a role without rights on definitions gets by with what is there."""
    schema = options.schema
    if not await connection.fetchval(frame("has_ledger", schema), f'"{schema}".function_set'):
        return False
    if await _missing(connection, options):
        return False
    return bool(await connection.fetchval(frame("has_functions", schema), functions().suffix))


async def _missing(connection: Any, options: PostgresOptions) -> tuple[Any, ...]:
    rows = await connection.fetch(frame("ledger", options.schema))
    ledger = [Applied(number, name, checksum) for number, name, checksum in rows]
    return plan(load_migrations(PACKAGE), ledger, options.place)


async def _create(connection: Any, options: PostgresOptions, test_epoch_ms: int) -> None:
    """All of it in one transaction, under a lock: it is there, or it is not."""
    schema = options.schema
    await connection.execute(frame("lock", schema), schema)
    for name in ("begin", "create_ledger", "create_sets"):
        await connection.execute(frame(name, schema))
    for migration in await _missing(connection, options):
        await connection.execute(filled(migration.text, schema))
        await connection.execute(frame("note", schema), migration.number, migration.name, migration.checksum)
    await connection.execute(frame("start_clock", schema), test_epoch_ms if options.test_clock else None)
    if not await connection.fetchval(frame("has_functions", schema), functions().suffix):
        await connection.execute(frame("prepare", schema))
        await connection.execute(filled(functions().text, schema))
        await connection.execute(frame("note_functions", schema), functions().suffix, options.application_name)
