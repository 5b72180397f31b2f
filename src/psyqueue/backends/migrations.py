"""Numbered, append-only changes of a store's schema: which are there, which are missing, was one edited.

A migration is a file `migrations/NNNN_name.up.sql`. The store keeps a ledger of (number, name, checksum). How a file
is applied, and under which lock, is the backend's business.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256

from msgspec import Struct

from psyqueue.backends.sql_files import read_folder
from psyqueue.errors import SchemaTooNew, StoreUnusable

_NAME = re.compile(r"(\d{4})_(\w+)\.up")


class Applied(Struct, frozen=True):
    """One line of a store's ledger."""

    number: int
    name: str
    checksum: str


class Migration(Struct, frozen=True):
    number: int
    name: str
    checksum: str
    text: str

    @property
    def applied(self) -> Applied:
        return Applied(self.number, self.name, self.checksum)


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
    newest = max((each.number for each in ledger), default=0)
    if newest > len(known):
        text = f"{store} has schema {newest}, this psyqueue knows {len(known)}. Upgrade psyqueue, or open another store"
        raise SchemaTooNew(text, store=store, found=newest, known=len(known))
    for number, applied in enumerate(sorted(ledger, key=lambda each: each.number), 1):
        if applied != known[number - 1].applied:
            text = (
                f"{store}: schema change {applied.number} ({applied.name}) differs from the one of this psyqueue. "
                "It was made by another build; restore the store from a copy, or open it with that build"
            )
            raise StoreUnusable(text, store=store, number=applied.number)
    return tuple(known[newest:])


def _migration(stem: str, text: str) -> Migration:
    match = _NAME.fullmatch(stem)
    if match is None:
        raise LookupError(f"migration {stem!r} is not named NNNN_name.up.sql")
    # Line ends are made equal: a checkout on Windows must not change the checksum.
    checksum = sha256(text.replace("\r\n", "\n").encode()).hexdigest()
    return Migration(int(match[1]), match[2], checksum, text)
