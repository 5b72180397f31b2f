"""How far a move is, kept in its destination: read by whoever goes on after a crash, or wants it undone."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from psyqueue.backend import Effects, Item, MovedState, Numbers, Part, StateWrite
from psyqueue.moving.house import JOURNAL, House
from psyqueue.moving.selection import Selection

Phase: TypeAlias = Literal["copying", "dropping", "rolling back"]


class Journal(Struct, frozen=True):
    """`base`: the destination's numbers before; those of the source are shifted by them.

    `shared`: keys of other things than jobs that were in both stores before; they stay as the destination has them, and
    are not taken out again by a rollback. `version`: of the state key, grows with each phase.
    """

    source: str
    started_at_ms: int
    base: Numbers
    selection: Selection
    is_merge: bool = False
    shared: dict[Part, list[str]] = {}
    phase: Phase = "copying"
    version: int = 0


_decode = msgspec.json.Decoder(Journal).decode


async def read_journal(target: House) -> Journal | None:
    (item,) = await target.backend.read_state((JOURNAL,))
    return None if item is None else msgspec.structs.replace(_decode(item.value), version=item.version)


async def write_journal(target: House, journal: Journal) -> Journal:
    """As its next version. The destination is frozen: it is taken in as what comes from elsewhere."""
    written = msgspec.structs.replace(journal, version=journal.version + 1)
    await target.take_in([_as_state(written)])
    return written


async def drop_journal(target: House) -> None:
    """The last thing, when the destination is open again."""
    gone = Effects(writes=(StateWrite(kind="delete", key=JOURNAL),))
    await target.change(lambda op: target.backend.write_state(op, gone))


def _as_state(journal: Journal) -> MovedState:
    return MovedState(item=Item(JOURNAL, msgspec.json.encode(journal), journal.version))
