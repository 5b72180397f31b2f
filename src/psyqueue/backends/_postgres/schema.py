"""The schema and its functions as the files have them.

Functions have the digest of all of them in their names, and are never replaced: clients of two releases side by side do
not meet, and who adds a function need not think of a version. Tables change by numbered migrations. How both get into
the database: upgrade.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from typing import Final, Literal, TypeAlias

from psyqueue.backends.migrations import Migration, load_migrations
from psyqueue.backends.sql_files import load_statements, read_folder

PACKAGE: Final = "psyqueue.backends._postgres"
Style: TypeAlias = Literal["$", "%s"]
"""How a client marks where values go: $1, $2, … or %s each."""
_FRAMES: Final = load_statements(PACKAGE, "frames")
_DEFINED = re.compile(r"^\w+ FUNCTION @schema@\.(\w+)\(([^)]*)\)(?:\s+RETURNS (?!TABLE|SETOF)(\w+))?", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n?", re.MULTILINE)


class Functions:
    """The texts of all functions. `suffix` names the set, and changes with the tables that it was written for."""

    def __init__(self, parts: Sequence[str], migrations: Sequence[Migration]) -> None:
        text = _COMMENT.sub("", "\n".join(part.replace("\r\n", "\n") for part in parts))
        text = text.replace("@settings@", _FRAMES["settings"])
        digest = sha256("\n".join([text, *(each.checksum for each in migrations)]).encode())
        self.suffix = "_" + digest.hexdigest()[:8]
        defined = _DEFINED.findall(text)
        self._types = {
            name: [each.split()[1] for each in given.split(",") if each.strip()] for name, given, _ in defined
        }
        self._frames = {name: _FRAMES["call.value" if kind else "call.rows"] for name, _, kind in defined}
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
        text = self._frames[name].replace("@name@", name).replace("@v@", self.suffix)
        return filled(text.replace("@params@", ", ".join(params)), schema)


@dataclass(frozen=True)
class Release:
    """What a release of psyqueue needs in the database: numbered changes of the tables, and a set of functions."""

    version: str
    migrations: tuple[Migration, ...]
    functions: Functions


@cache
def this_release() -> Release:
    parts = (*read_folder(PACKAGE, "includes").values(), *read_folder(PACKAGE, "commands").values())
    migrations = load_migrations(PACKAGE)
    return Release(version("psyqueue"), migrations, Functions(parts, migrations))


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


def frame(name: str, schema: str, /, **values: object) -> str:
    """The section of a frame with its places filled. What `text` brings is not looked through for places."""
    found = filled(_FRAMES[name], schema)
    for place, value in values.items():
        if place != "text":
            found = found.replace(f"@{place}@", str(value))
    return found.replace("@text@", str(values.get("text", "")))


def facts_frame() -> str:
    return _FRAMES["facts"]


def removal(schema: str) -> str:
    return filled(_FRAMES["remove"], schema)
