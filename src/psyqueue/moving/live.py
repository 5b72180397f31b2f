"""The move without a pause: producers write to the new store while workers drain the old one, then workers follow.

    move = LiveMove(House(old, "sqlite:/srv/jobs.db"), House(new, "redis://cache:6379/0"))
    await move.begin()    # old: draining, new: filling
    await move.finish()   # old: frozen, then moved; new: open

Every step may be killed anywhere and done again. What makes it safe (docs/adr/0020): a store gives out jobs or takes
new ones, never both, until the old one is closed for good; so a job can start in one of them at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from psyqueue.backend import Filter, Item, Mode, Moved, MovedJob, MovedKey, MovedState, Numbers, Part
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.errors import InvalidState, KeyConflict, NamespaceMoved
from psyqueue.moving.early import EarlyMoves
from psyqueue.moving.house import MARK, House
from psyqueue.moving.journal import LIVE, Journal, drop_journal, read_journal, write_journal
from psyqueue.moving.numbering import numbers_of, room_for, shifted
from psyqueue.moving.plan import find_barrier
from psyqueue.moving.quiet import Progress, be_quiet
from psyqueue.moving.returning import give_back
from psyqueue.moving.selection import Selection
from psyqueue.moving.verify import Sums, Tally, Verified, require_same

ROOM = 1_000_000_000
"""For the numbers that the old store gives while it is drained."""
FIRST: tuple[Part, ...] = ("limits", "schedules", "fires")
"""What the new store has to know before it takes jobs."""
DRAIN_LOOK_MS = 500
UNATTENDED = "draining (no worker is there: start one with `psyqueue worker`)"


class Status(Struct, frozen=True):
    """`step`: none, switching, draining, finishing, returning (or emptying), or over. Counts by queue and status."""

    step: str
    source_mode: Mode
    target_mode: Mode
    source: Counter[tuple[str, str]]
    target: Counter[tuple[str, str]]
    workers: tuple[str, ...]
    """Names of those that have a session in the old store, and renew it."""
    running: tuple[tuple[str, int], ...] = ()
    """Ids of jobs that run in the old store, and for how many ms, the longest first: `finish` waits for their end."""


class LiveMove:
    """Moves everything from `source` to `target`, which has to be empty. Parameters as of `Mover`."""

    def __init__(
        self,
        source: House,
        target: House,
        selection: Selection = Selection(),  # noqa: B008 - frozen
        *,
        is_take_over: bool = False,
        wait_ms: int = 60_000,
        tell: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        if not selection.is_whole:
            raise InvalidState("a move without a pause is of all queues: leave out --queue, or move offline")
        self._source = source
        self._target = target
        self._selection = selection
        self._is_take_over = is_take_over
        self._wait_ms = wait_ms
        self._tell = tell
        self._early = EarlyMoves(source, target)

    # ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────
    async def status(self) -> Status:
        """How far it is."""
        source, target = await self._source.backend.info(), await self._target.backend.info()
        journal = await read_journal(self._target)
        if journal is not None and journal.phase in LIVE:
            step: str = journal.phase
        else:
            step = "over" if source.mode == "moved" and source.moved_to == self._target.address else "none"
        workers = await self._workers()
        counts = [await house.counts() for house in (self._source, self._target)]
        running = await self._running(source.now_ms)
        return Status(step, source.mode, target.mode, counts[0], counts[1], workers, running)

    async def _workers(self) -> tuple[str, ...]:
        """Without those that died: while nobody else works, nobody takes their sessions away."""
        alive = [info for info in await self._source.sessions() if info.expires_in_ms > 0]
        return tuple(sorted({info.session.worker for info in alive}))

    async def _running(self, now_ms: int) -> tuple[tuple[str, int], ...]:
        """Of as many as one page has."""
        page = await self._source.backend.list_jobs(Filter(statuses=("active",)), None, ITEMS_MAX)
        started = sorted((view.started_at_ms or now_ms, view.job.id) for view in page.jobs)
        return tuple((job_id, max(0, now_ms - at_ms)) for at_ms, job_id in started)

    # ── the switch: producers go over ─────────────────────────────────────────────────────────────────────────────────
    async def begin(self) -> None:
        """From here on new jobs go to the new store, and workers drain the old one. Raises Refused with the way out."""
        journal = await self._journal()
        if journal is None:
            if (await self._source.backend.info()).mode == "moved":
                return
            journal = await self._open_journal()
        if journal.phase == "switching":
            await self._switch(journal)

    async def _open_journal(self) -> Journal:
        target = await self._target.backend.info()
        is_returned = target.mode in ("frozen", "moved") and target.moved_to == self._source.address
        if is_returned:
            await self._target.switch("frozen")  # a move before this one was rolled back
        barrier = await find_barrier(self._source, self._target, self._selection, is_merge=False)
        if barrier.obstacles:
            if is_returned:
                await self._target.switch("moved", self._source.address)
            raise InvalidState(". ".join(barrier.obstacles))
        if (await self._target.backend.info()).mode != "frozen":
            await self._target.switch("frozen")
        base = await numbers_of(self._target)
        now_ms = self._source.clock.now_ms()
        return await write_journal(
            self._target, Journal(self._source.address, now_ms, base, self._selection, phase="switching")
        )

    async def _switch(self, journal: Journal) -> None:
        """The pause that producers see: from the first mode to the second."""
        if (await self._source.backend.info()).mode == "open":
            await self._source.switch("draining", self._target.address)
        if journal.span is None:
            last = await numbers_of(self._source)
            span = room_for(Numbers(last.made + ROOM, last.ready + ROOM))
            journal = await write_journal(self._target, replace(journal, span=span))
        await self._target.take_in([journal.above(2)])
        for part in FIRST:
            async for page in self._source.pages(part):
                await self._target.take_in(page)
        if (await self._target.backend.info()).mode == "frozen":
            await self._target.switch("filling")
        await write_journal(self._target, replace(journal, phase="draining"))

    # ── draining ──────────────────────────────────────────────────────────────────────────────────────────────────────
    async def move_early(self) -> int:
        """Move what no worker will ask for soon, while they work; how many jobs."""
        journal = await self._require(("draining",))
        return await self._early.move(journal, self._selection)

    async def drain(self, wait_ms: float) -> bool:
        """Wait until nothing is pending or active in the old store; False: it still is, after `wait_ms`."""
        until = self._source.clock.mono_ms() + wait_ms
        while left := await self._left():
            self._tell(Progress("draining" if await self._workers() else UNATTENDED, 0, left))
            if self._source.clock.mono_ms() >= until:
                return False
            await self._source.clock.sleep_ms(DRAIN_LOOK_MS)
        return True

    async def _left(self) -> int:
        counts = await self._source.counts()
        return sum(count for (_, status), count in counts.items() if status in ("pending", "active"))

    # ── the end: workers go over ──────────────────────────────────────────────────────────────────────────────────────
    async def finish(self) -> Verified:
        """Copy what is left, close the old store, open the new one. Raises Refused with the way out.

        If something still runs after `wait_ms`, workers go on draining as before.
        """
        journal = await self._journal()
        info = await self._source.backend.info()
        if info.mode == "moved":
            await self._open(journal)
            return Verified({}, {})
        journal = await self._require(("draining", "finishing"))
        journal = await self._early.mend(journal)
        if journal.phase == "draining":
            journal = await write_journal(self._target, replace(journal, phase="finishing"))
        if info.mode != "frozen":
            await self._source.switch("frozen", self._target.address)
        try:
            await be_quiet(self._source, self._wait_ms, is_take_over=self._is_take_over, tell=self._tell)
        except InvalidState:
            await self._source.switch("draining", self._target.address)
            await write_journal(self._target, replace(journal, phase="draining"))
            raise
        verified = Verified(await self._copy(journal), await self._there(journal))
        require_same(verified, self._source.address)
        await self._source.switch("moved", self._target.address)
        await self._open(journal)
        return verified

    async def _copy(self, journal: Journal) -> Sums:
        tally, done = Tally(), 0
        total = (await self._source.counts()).total()
        for part in self._selection.parts:
            async for page in self._source.pages(part):
                items = [shifted(item, journal.base) for item in page if self._selection.takes(item)]
                taken = await self._take_in(items)
                if part == "jobs":
                    tally.add(map(_without_place, taken), part)
                    done += len(taken)
                    self._tell(Progress("copying", done, total))
        return tally.sums()

    async def _take_in(self, items: Sequence[Moved]) -> Sequence[Moved]:
        """What a newcomer took in the same moment as one in the old store stays the newcomer's."""
        try:
            await self._target.take_in(items)
        except KeyConflict:
            return [taken for item in items for taken in await self._take_in_one(item)]
        return items

    async def _take_in_one(self, item: Moved) -> Sequence[Moved]:
        try:
            await self._target.take_in([item])
        except KeyConflict:
            if isinstance(item, MovedKey):
                return ()
            assert isinstance(item, MovedJob)
            item = replace(item, has_key=False)
            await self._target.take_in([item])
        return (item,)

    async def _there(self, journal: Journal) -> Sums:
        """What of the copy the new store has, read back."""
        tally = Tally()
        async for page in self._target.pages("jobs"):
            tally.add([_without_place(item) for item in page if _is_copy(item, journal)], "jobs")
        return tally.sums()

    async def _open(self, journal: Journal | None) -> None:
        if journal is None:
            return
        if (await self._target.backend.info()).mode == "filling":
            mark = Item(MARK, msgspec.json.encode({"from": self._source.address}), journal.version)
            await self._target.take_in([MovedState(item=mark)])
            await self._target.switch("open")
        await drop_journal(self._target)

    # ── back ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def rollback(self) -> None:
        """Everything goes back to the old store, newcomers too, and it opens. Raises InvalidState once it is closed."""
        if (await self._source.backend.info()).mode == "moved":
            raise InvalidState(
                f"the jobs live at {self._target.address} by now: to have them back, move them back from there"
            )
        target = await self._target.backend.info()
        if await self._journal() is None and target.moved_to == self._source.address:
            return  # done before
        journal = await self._require(LIVE)
        if journal.phase not in ("returning", "emptying"):
            # A store that never took a job has nothing to give back.
            has_taken = journal.phase != "switching" or target.mode == "filling"
            journal = await self._early.mend(journal)
            journal = await write_journal(
                self._target, replace(journal, phase="returning" if has_taken else "emptying")
            )
        await give_back(self._source, self._target, journal, self._tell)

    # ── the journal ───────────────────────────────────────────────────────────────────────────────────────────────────
    async def _journal(self) -> Journal | None:
        """Of this move. Raises InvalidState if another one is under way, NamespaceMoved if the jobs are elsewhere."""
        source, journal = await self._source.backend.info(), await read_journal(self._target)
        if source.moved_to and source.moved_to != self._target.address:
            if source.mode == "moved":
                raise NamespaceMoved(source.moved_to)
            raise InvalidState(f"{self._source.address} is on its way to {source.moved_to}")
        if await read_journal(self._source) is not None:
            raise InvalidState(f"a move into {self._source.address} is not finished. Finish it, or roll it back")
        if journal is not None and (journal.source != self._source.address or journal.phase not in LIVE):
            raise InvalidState(
                f"an offline move from {journal.source} to {self._target.address} is not finished. Go on with it or "
                "roll it back"
            )
        if journal is not None:
            self._selection = journal.selection
        return journal

    async def _require(self, phases: Sequence[str]) -> Journal:
        journal = await self._journal()
        if journal is None:
            raise InvalidState(
                f"no move from {self._source.address} to {self._target.address} is under way: begin it with "
                "`psyqueue migrate run`"
            )
        if journal.phase not in phases:
            ways = {
                "switching": "it has just begun: go on with `psyqueue migrate run`",
                "finishing": "its end has begun: go on with `psyqueue migrate finish`",
                "returning": "it is being rolled back: go on with `psyqueue migrate rollback`",
            }
            raise InvalidState(ways.get(journal.phase, ways["returning"]))
        return journal


def _is_copy(item: Moved, journal: Journal) -> bool:
    return isinstance(item, MovedJob) and journal.base.made < item.number <= journal.above(1).made


def _without_place(item: Moved) -> Moved:
    """At a gate that a newcomer passed before, a job stands in line again: that is no difference."""
    if isinstance(item, MovedJob) and item.job.gate is not None and item.status in ("scheduled", "pending"):
        return replace(item, status="waiting")
    return item
