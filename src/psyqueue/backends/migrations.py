"""Numbered, append-only changes of a store's schema: which are there, which are missing, was one edited.

A migration is a file `migrations/NNNN_name.up.sql` that begins with its phase. `-- phase: pre`: releases that do not
know the change go on working, so it may be made while they run. `-- phase: post`: they do not, so it has to wait until
they are gone; whatever comes later must do with and without it. The store keeps a ledger of what was applied. How a
file is applied, and under which lock, is the backend's business.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Literal

from msgspec import Struct

from psyqueue.backends.sql_files import read_folder
from psyqueue.errors import SchemaTooNew, StoreUnusable

Phase = Literal["pre", "post"]

_NAME = re.compile(r"(\d{4})_(\w+)\.up")
_PHASE = re.compile(r"-- phase: (pre|post)\b")


class Applied(Struct, frozen=True):
    """One line of a store's ledger. A store that keeps no phase lets no release work on what it does not know."""

    number: int
    name: str
    checksum: str
    phase: str = "post"
    applied_at: datetime | None = None


class Migration(Struct, frozen=True):
    number: int
    name: str
    checksum: str
    text: str
    phase: Phase = "pre"

    @property
    def applied(self) -> Applied:
        return Applied(self.number, self.name, self.checksum, self.phase)

    def is_in(self, line: Applied) -> bool:
        """Whether this line of the ledger says that just this was applied."""
        return (self.number, self.name, self.checksum) == (line.number, line.name, line.checksum)


class ChangeLine(Struct, frozen=True):
    """A change, for people. waiting: until releases that do not know it are gone; unknown: of a newer release."""

    number: int
    name: str
    phase: str
    state: Literal["applied", "missing", "waiting", "unknown"]
    applied_at: datetime | None = None


class SetLine(Struct, frozen=True):
    """The functions that a release has in its store. `schema`: the newest change that it knows."""

    suffix: str
    version: str
    schema: int
    is_ours: bool
    made_at: datetime
    seen_at: datetime


class SchemaStatus(Struct, frozen=True):
    """What a store holds. `gaps`: what this release cannot work without, in words."""

    gaps: list[str]
    changes: list[ChangeLine]
    sets: list[SetLine]


def load_migrations(package: str, folder: str = "migrations") -> tuple[Migration, ...]:
    """All of the package, in order. Raises LookupError if a number is missing or doubled, or a name is not as above."""
    found = tuple(_migration(stem, text) for stem, text in read_folder(package, folder).items())
    if [each.number for each in found] != list(range(1, len(found) + 1)):
        raise LookupError(f"{package}/{folder}: numbers are {[each.number for each in found]}, not 1, 2, 3, …")
    return found


def plan(known: Sequence[Migration], ledger: Sequence[Applied], store: str) -> tuple[Migration, ...]:
    """What is still to be applied to `store`, in order.

    Raises SchemaTooNew if the store is ahead of this psyqueue, StoreUnusable if what was applied is not what we know.
    """
    lines = {each.number: each for each in ledger}
    newest = max(lines, default=0)
    if any(number > len(known) and line.phase != "pre" for number, line in lines.items()):
        text = f"{store} has schema {newest}, this psyqueue knows {len(known)}. Upgrade psyqueue, or open another store"
        raise SchemaTooNew(text, store=store, found=newest, known=len(known))
    for migration in known[:newest]:
        line = lines.get(migration.number)
        if line is None and migration.phase == "post":
            continue
        if line is None or not migration.is_in(line):
            name = f"{migration.name}: it is missing" if line is None else line.name
            text = (
                f"{store}: schema change {migration.number} ({name}) differs from the one of this psyqueue. "
                "It was made by another build; restore the store from a copy, or open it with that build"
            )
            raise StoreUnusable(text, store=store, number=migration.number)
    return tuple(each for each in known if each.number not in lines)


def compared(known: Sequence[Migration], ledger: Sequence[Applied], missing: Sequence[Migration]) -> list[ChangeLine]:
    """All changes that the store or we know, in order. `missing`: what `plan` says."""
    there = [_applied(line, len(known)) for line in ledger]
    return sorted([*there, *(_missing(each, is_new=not ledger) for each in missing)], key=lambda line: line.number)


def _applied(line: Applied, known: int) -> ChangeLine:
    is_known = line.number <= known
    return ChangeLine(line.number, line.name, line.phase, "applied" if is_known else "unknown", line.applied_at)


def _missing(migration: Migration, *, is_new: bool) -> ChangeLine:
    is_waiting = migration.phase == "post" and not is_new
    return ChangeLine(migration.number, migration.name, migration.phase, "waiting" if is_waiting else "missing")


def _migration(stem: str, text: str) -> Migration:
    match = _NAME.fullmatch(stem)
    if match is None:
        raise LookupError(f"migration {stem!r} is not named NNNN_name.up.sql")
    phase = _PHASE.match(text)
    if phase is None:
        raise LookupError(f"migration {stem!r} does not begin with '-- phase: pre' or '-- phase: post'")
    # Line ends are made equal: a checkout on Windows must not change the checksum.
    checksum = sha256(text.replace("\r\n", "\n").encode()).hexdigest()
    return Migration(int(match[1]), match[2], checksum, text, "pre" if phase[1] == "pre" else "post")
