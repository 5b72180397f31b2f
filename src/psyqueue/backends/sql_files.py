"""SQL lives in files, one verb each: here they become named statements.

A file `commands/settle.sql` with sections

    -- name: held
    SELECT …

gives the statement `settle.held`; a file without sections gives one statement named as the file. Comment lines are
dropped, so that headers cost nothing at run time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

_SECTION = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n?", re.MULTILINE)


def load_statements(package: str, folder: str = "commands") -> Mapping[str, str]:
    """Statement name → text, of every `.sql` file of the folder. Raises LookupError for a name that is given twice."""
    statements: dict[str, str] = {}
    for verb, text in read_folder(package, folder).items():
        for name, statement in _sections(verb, text):
            if name in statements:
                raise LookupError(f"{package}/{folder}: statement {name!r} is given twice")
            statements[name] = statement
    return MappingProxyType(statements)


def read_folder(package: str, folder: str) -> dict[str, str]:
    """File name without `.sql` → text, in order of name."""
    found = (each for each in files(package).joinpath(folder).iterdir() if each.name.endswith(".sql"))
    return {
        each.name.removesuffix(".sql"): each.read_text(encoding="utf-8")
        for each in sorted(found, key=lambda each: each.name)
    }


def _sections(verb: str, text: str) -> list[tuple[str, str]]:
    parts = _SECTION.split(text)
    if len(parts) == 1:
        return [(verb, _bare(text))]
    if _bare(parts[0]):
        raise LookupError(f"{verb}.sql: a statement stands before the first '-- name:'")
    return [(f"{verb}.{name}", _bare(body)) for name, body in zip(parts[1::2], parts[2::2], strict=True)]


def _bare(text: str) -> str:
    return _COMMENT.sub("", text).strip().removesuffix(";")
