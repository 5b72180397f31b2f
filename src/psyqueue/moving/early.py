"""Jobs that nobody should have to wait for move while the old store works: held there, taken in held, dropped, let go.

Held, a job can neither start nor change. Which ones are on their way stands in the journal, so that whoever comes after
a crash knows where each of them belongs.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from psyqueue.backend import Change, Filter, JobView, MovedJob
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.errors import InvalidState
from psyqueue.moving.house import House
from psyqueue.moving.journal import Journal, write_journal
from psyqueue.moving.numbering import shifted
from psyqueue.moving.selection import Selection

BATCH = 250
LATER_MS = 60_000
"""What is due sooner is left to the workers."""
_HOLD, _LET_GO = Change(kind="hold"), Change(kind="unhold")
_ENDED = ("dead", "completed", "cancelled")


class EarlyMoves:
    """From `source` to `target`, batch by batch."""

    def __init__(self, source: House, target: House) -> None:
        self._source = source
        self._target = target

    async def move(self, journal: Journal, selection: Selection) -> int:
        """All that nobody asks for soon, that no other job needs and that is at no gate; how many."""
        journal = await self.mend(journal)
        moved, cursor = 0, None
        while True:
            page = await self._source.backend.export_part("jobs", cursor, BATCH)
            later_ms = (await self._source.backend.info()).now_ms + LATER_MS
            jobs = [item for item in page.items if isinstance(item, MovedJob) and selection.takes(item)]
            ids = [item.job.id for item in jobs if _is_loose(item, later_ms)]
            if ids:
                count, journal = await self._move(journal, ids, cursor)
                moved += count
            cursor = page.cursor
            if cursor is None:
                return moved

    async def _move(self, journal: Journal, ids: Sequence[str], cursor: str | None) -> tuple[int, Journal]:
        journal = await write_journal(self._target, replace(journal, early=tuple(ids)))
        await self._change(self._source, ids, _HOLD)
        # Once more, as they are now that nothing can change them.
        held = set(ids)
        page = await self._source.backend.export_part("jobs", cursor, BATCH)
        items = [item for item in page.items if isinstance(item, MovedJob) and item.held and item.job.id in held]
        await self._target.take_in([shifted(item, journal.above(1)) for item in items])
        await self._compare([item.job.id for item in items])
        count = await self._source.drop(items)
        return count, await self.mend(journal)

    async def _compare(self, ids: Sequence[str]) -> None:
        """Raises InvalidState before anything is dropped: what arrived has to be what was there."""
        there = [await self._contents(house, ids) for house in (self._source, self._target)]
        for job_id, before, after in zip(ids, *there, strict=True):
            if before != after:
                raise InvalidState(
                    f"job {job_id!r} differs in the new store. Nothing is lost: {self._source.address} still has it. "
                    "Roll the move back (`psyqueue migrate rollback`) and tell us"
                )

    async def _contents(self, house: House, ids: Sequence[str]) -> list[JobView | None]:
        """Without what is each store's own."""
        views = await house.backend.get(ids)
        return [None if view is None else replace(view, ready_number=None, blocked_by=()) for view in views]

    async def mend(self, journal: Journal) -> Journal:
        """Every job of an early move is in one store afterwards, and let go."""
        ids = journal.early
        if not ids:
            return journal
        stays = {view.job.id for view in await self._source.backend.get(ids) if view is not None}
        there = {view.job.id for view in await self._target.backend.get(ids) if view is not None}
        if twice := stays & there:
            # Another job came to need it, or the move was cut short: its place is still in the old store.
            await self._target.drop([item for item in await self._held_copies() if item.job.id in twice])
        await self._change(self._source, [job_id for job_id in ids if job_id in stays], _LET_GO)
        await self._change(self._target, [job_id for job_id in ids if job_id in there - stays], _LET_GO)
        return await write_journal(self._target, replace(journal, early=()))

    async def _held_copies(self) -> list[MovedJob]:
        pages = [page async for page in self._target.pages("jobs")]
        return [item for page in pages for item in page if isinstance(item, MovedJob) and item.held]

    async def _change(self, house: House, ids: Sequence[str], change: Change) -> None:
        if ids:
            where = Filter(ids=tuple(ids))
            await house.change(lambda op: house.backend.amend(op, where, change, None, ITEMS_MAX))


def _is_loose(item: MovedJob, later_ms: int) -> bool:
    """Nothing else in the store depends on where it is."""
    is_later = item.status in _ENDED or (item.status == "scheduled" and item.run_at_ms > later_ms)
    return is_later and not (item.held or item.is_needed or item.job.gate is not None or item.job.needs)
