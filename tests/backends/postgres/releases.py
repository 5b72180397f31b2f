"""Releases of psyqueue that there are not yet: this one, with changes of the tables and of a function."""

from __future__ import annotations

from msgspec import structs

from psyqueue.backends._postgres.schema import PACKAGE, Functions, Release, this_release
from psyqueue.backends.migrations import Migration, Phase
from psyqueue.backends.sql_files import read_folder

OLD = this_release()


def change(name: str, text: str, phase: Phase = "pre") -> Migration:
    """One more change of the tables, not yet numbered."""
    return Migration(0, name, f"checksum of {name}", f"-- phase: {phase}\n{text}", phase)


def newer(version: str, *changes: Migration, text: tuple[str, str] | None = None) -> Release:
    """This release with more changes, and, if `text` says so, another text in its function files."""
    numbered = [structs.replace(each, number=len(OLD.migrations) + place) for place, each in enumerate(changes, 1)]
    migrations = (*OLD.migrations, *numbered)
    parts = [*read_folder(PACKAGE, "includes").values(), *read_folder(PACKAGE, "commands").values()]
    texts = [part.replace(*text) for part in parts] if text else parts
    assert not text or texts != parts
    return Release(version, migrations, Functions(texts, migrations))
