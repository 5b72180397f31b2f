"""The way back of a move without a pause: what came to the new store goes to the old one, the new one is emptied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec.structs import replace

from psyqueue.backend import Moved, MovedJob, MovedNeed, Numbers, Part
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.errors import KeyConflict, UnknownDependency
from psyqueue.moving.house import House
from psyqueue.moving.journal import Journal, take_out_journal, write_journal
from psyqueue.moving.numbering import shifted
from psyqueue.moving.quiet import Progress

_PARTS: tuple[Part, ...] = ("fires", "jobs", "needs", "keys")
_EMPTIED: tuple[Part, ...] = (
    "jobs", "keys", "locks", "records", "streams", "state", "fires", "schedules", "limits",
)  # fmt: skip


async def give_back(source: House, target: House, journal: Journal, tell: Callable[[Progress], None]) -> None:
    """Neither store gives out a job while it goes on. Ends with the old store open, and the new one pointing to it."""
    # In this order: who is refused by the one has to be refused by the other, too.
    await _freeze(target, source.address)
    if journal.phase == "returning":
        await _freeze(source, target.address)
        await _return(source, target, journal, tell)
        journal = await write_journal(target, replace(journal, phase="emptying"))
    await _empty(target, tell)
    if (await source.backend.info()).mode != "open":
        await source.switch("open")
    await take_out_journal(target, journal)
    await target.switch("moved", source.address)


async def _freeze(house: House, address: str) -> None:
    info = await house.backend.info()
    if (info.mode, info.moved_to) != ("frozen", address):
        await house.switch("frozen", address)


async def _return(source: House, target: House, journal: Journal, tell: Callable[[Progress], None]) -> None:
    """What only the new store has. What was copied is left alone: the old store has it as it was."""
    done = 0
    for part in _PARTS:
        async for page in target.pages(part):
            items = [item for item in (_as_of_old(item, journal) for item in page) if item is not None]
            await _take_back(source, items)
            done += len(items) if part == "jobs" else 0
            tell(Progress("rolling back", done, done))
    await _return_schedules(source, target)


def _as_of_old(item: Moved, journal: Journal) -> Moved | None:
    """With the number that the old store gave it; newcomers come behind all that it has given by now."""
    if not isinstance(item, MovedJob):
        return item
    early, newest = journal.above(1).made, journal.above(2)
    if item.number <= early:
        return None
    if item.number <= newest.made:
        return replace(item, number=(item.number - early) // 2)
    span = journal.span or Numbers(0, 0)
    newcomer = replace(
        item,
        number=item.number - newest.made,
        ready_number=None if item.ready_number is None else item.ready_number - newest.ready,
    )
    return shifted(newcomer, Numbers(span.made // 2, span.ready // 2))


async def _take_back(source: House, items: Sequence[Moved]) -> None:
    try:
        await source.take_in(items)
    except (KeyConflict, UnknownDependency):
        for item in items:
            await _take_back_one(source, item)


async def _take_back_one(source: House, item: Moved) -> None:
    try:
        await source.take_in([item])
    except KeyConflict:
        if isinstance(item, MovedJob):
            await source.take_in([replace(item, has_key=False)])
    except UnknownDependency:
        if not isinstance(item, MovedNeed):
            raise  # a need of a copy: the old store has both jobs, or has ended with them


async def _return_schedules(source: House, target: House) -> None:
    """They went on in the new store: as they are there now."""
    now = {item async for page in target.pages("schedules") for item in page}
    before = {item async for page in source.pages("schedules") for item in page}
    for some in _in_calls(before - now):
        await source.drop(some)
    for some in _in_calls(now - before):
        await source.take_in(some)


def _in_calls(items: Iterable[Moved]) -> Iterator[list[Moved]]:
    """As many at a time as a call takes."""
    left = list(items)
    while left:
        yield left[:ITEMS_MAX]
        left = left[ITEMS_MAX:]


async def _empty(target: House, tell: Callable[[Progress], None]) -> None:
    dropped = 0
    for part in _EMPTIED:
        found = True
        while found:
            found = False
            async for page in target.pages(part):
                count = await target.drop(page)
                dropped += count if part == "jobs" else 0
                found = found or count > 0
                tell(Progress("dropping", dropped, dropped))
