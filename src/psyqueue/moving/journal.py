"""How far a move is, kept in its destination: read by whoever goes on after a crash, or wants it undone."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from psyqueue.backend import BackendAdapter, Effects, Item, MovedState, Numbers, Part, StateWrite
from psyqueue.moving.house import JOURNAL, MARK, House
from psyqueue.moving.selection import Selection

Phase: TypeAlias = Literal[
    "copying", "dropping", "rolling back", "switching", "draining", "finishing", "returning", "emptying"
]
LIVE: tuple[Phase, ...] = ("switching", "draining", "finishing", "returning", "emptying")
"""Of a move without a pause."""


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
    span: Numbers | None = None
    """Live: the room for numbers of the old store. Above `base` comes what is copied in the end, a span later what
    moves before, another span later what comes to the new store by itself."""
    early: tuple[str, ...] = ()
    """Live: ids that are just being moved while the old store works, held in either."""

    def above(self, spans: int) -> Numbers:
        """Where the numbers of the range after so many spans begin."""
        span = self.span or Numbers(0, 0)
        return Numbers(self.base.made + spans * span.made, self.base.ready + spans * span.ready)


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


async def take_out_journal(target: House, journal: Journal) -> None:
    """As `drop_journal`, out of a store that is frozen."""
    await target.drop([_as_state(journal)])


class Ours(Struct, frozen=True):
    """What the new store of `moving(old, new)` says. `is_over`: a move into it without a pause has come to its end."""

    is_live: bool
    is_over: bool


async def is_ours(new: BackendAdapter) -> Ours:
    journal, mark = await new.read_state((JOURNAL, MARK))
    return Ours(journal is not None and _decode(journal.value).phase in LIVE, mark is not None)


def _as_state(journal: Journal) -> MovedState:
    return MovedState(item=Item(JOURNAL, msgspec.json.encode(journal), journal.version))
