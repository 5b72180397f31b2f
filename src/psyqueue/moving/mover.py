"""The move itself: freeze, copy, verify, decide, open. Every step may be done twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from msgspec.structs import replace

from psyqueue.backend import Info, Moved, MovedJob, Numbers, Part
from psyqueue.errors import InvalidState, NamespaceMoved
from psyqueue.kernel.aio import next_turn
from psyqueue.moving.house import House, each
from psyqueue.moving.journal import LIVE, Journal, drop_journal, read_journal, write_journal
from psyqueue.moving.numbering import is_moved, numbers_of, room_for, shifted
from psyqueue.moving.plan import Plan, count_jobs, find_barrier, key_of, make_plan
from psyqueue.moving.quiet import Progress, be_quiet
from psyqueue.moving.selection import Selection
from psyqueue.moving.verify import Sums, Tally, Verified, require_same


class Mover:
    """Moves what `selection` takes from `source` to `target`. Both are connected, and stay so.

    `wait_ms`: how long running jobs of the source may take to end; `is_take_over`: they are taken from their workers,
    and run again in the new store. `is_merge`: the destination may hold other jobs. `tell` is called as it goes on.
    """

    def __init__(
        self,
        source: House,
        target: House,
        selection: Selection = Selection(),  # noqa: B008 - frozen
        *,
        is_merge: bool = False,
        is_take_over: bool = False,
        wait_ms: int = 60_000,
        tell: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._source = source
        self._target = target
        self._selection = selection
        self._is_merge = is_merge
        self._is_take_over = is_take_over
        self._wait_ms = wait_ms
        self._tell = tell
        self._total = 0

    async def plan(self) -> Plan:
        """What `run` would do. Nothing is changed."""
        return await make_plan(self._source, self._target, self._selection, is_merge=self._is_merge)

    async def run(self) -> Verified:
        """Do it, or go on with what a killed run began. Raises Refused with the way out.

        What is refused before the copy begins leaves both stores as they were. After that only a lost connection or a
        full store can stop it: run it again, or roll it back. Where nothing is left to move, nothing is verified.
        """
        journal = await self._journal()
        if (await self._source.backend.info()).mode == "moved":
            await self._open_target(journal)
            return Verified({}, {})
        if journal is None and not self._selection.is_whole and not await count_jobs(self._source, self._selection):
            return Verified({}, {})
        journal = await self._begin(journal)
        verified = Verified({}, {})
        if journal.phase == "copying":
            verified = Verified(await self._copy(journal), await self._there(journal))
            require_same(verified, self._source.address)
        if self._selection.is_whole:
            await self._source.switch("moved", self._target.address)
        else:
            if journal.phase == "copying":
                journal = await write_journal(self._target, replace(journal, phase="dropping"))
            await self._drop_copied(journal)
            await self._source.switch("open")
        await self._open_target(journal)
        return verified

    # ── before ────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _journal(self) -> Journal | None:
        """Of the move that is under way, if it is this one. Raises InvalidState if it is another."""
        source, journal = await self._source.backend.info(), await read_journal(self._target)
        await self._require_own_jobs(source)
        if source.moved_to and source.moved_to != self._target.address:
            if source.mode == "moved":
                raise NamespaceMoved(source.moved_to)
            raise InvalidState(
                f"{self._source.address} is on its way to {source.moved_to}. Go on with that move, or roll it back"
            )
        if journal is not None and journal.source != self._source.address:
            raise InvalidState(
                f"a move from {journal.source} to {self._target.address} is not finished. Go on with it or roll it back"
            )
        if journal is not None and journal.phase in LIVE:
            raise InvalidState("a move without a pause is under way: `psyqueue migrate status` says how far it is")
        if journal is not None and journal.phase == "rolling back":
            raise InvalidState("this move is being rolled back. Finish that with `psyqueue migrate rollback`")
        if journal is not None and journal.selection != self._selection:
            raise InvalidState("this move was begun with other --queue or --include. Use the same, or roll it back")
        return journal

    async def _require_own_jobs(self, source: Info) -> None:
        """Raises InvalidState if the source is the destination of an unfinished move: what it has is not all."""
        if (source.mode == "frozen" and not source.moved_to) or await read_journal(self._source) is not None:
            raise InvalidState(f"a move into {self._source.address} is not finished. Finish it, or roll it back")

    async def _begin(self, journal: Journal | None) -> Journal:
        """Both are frozen and no job is active: the two stores stand still."""
        shared: dict[Part, list[str]] = {}
        if journal is None:
            barrier = await find_barrier(self._source, self._target, self._selection, is_merge=self._is_merge)
            if barrier.obstacles:
                raise InvalidState(". ".join(barrier.obstacles))
            shared = barrier.shared
        before = await self._source.backend.info()
        if before.mode != "frozen":
            await self._source.switch("frozen", self._target.address)
        try:
            await be_quiet(self._source, self._wait_ms, is_take_over=self._is_take_over, tell=self._tell)
        except InvalidState:
            if before.mode != "frozen":
                await self._source.switch(before.mode)
            raise
        await self._freeze_target()
        self._total = (await count_jobs(self._source, self._selection)).total()
        if journal is not None:
            return journal
        base = await numbers_of(self._target)
        now_ms = self._source.clock.now_ms()
        new = Journal(self._source.address, now_ms, base, self._selection, self._is_merge, shared)
        return await write_journal(self._target, new)

    # ── copy and verify ───────────────────────────────────────────────────────────────────────────────────────────────
    async def _copy(self, journal: Journal) -> Sums:
        """All parts, as often as it takes: what is there already stays. What was read, counted and summed up."""
        base, room = journal.base, room_for(await numbers_of(self._source))
        await self._target.take_in([Numbers(base.made + room.made, base.ready + room.ready)])
        done, tally = 0, Tally()

        async def write(page: list[Moved]) -> None:
            nonlocal done
            await self._target.take_in(page)
            done += sum(isinstance(item, MovedJob) for item in page)
            self._tell(Progress("copying", done, self._total))

        for part in self._selection.parts:
            if part == "needs" and not tally.has_needs:
                continue  # the jobs have told that there are none: a store without an index may look at each for them
            await each(self._summed_up(part, journal, tally), write)
        return tally.sums()

    async def _summed_up(self, part: Part, journal: Journal, tally: Tally) -> AsyncIterator[list[Moved]]:
        """Pages of what moves of a part, with numbers as they are to be in the destination."""
        async for page in self._chosen(part, journal):
            if self._is_compared(part, journal):
                tally.add(page, part)
            yield [shifted(item, journal.base) for item in page]

    async def _chosen(self, part: Part, journal: Journal) -> AsyncIterator[list[Moved]]:
        """Pages of what moves of a part of the source."""
        shared = set(journal.shared.get("streams" if part == "records" else part, ()))
        async for page in self._source.pages(part):
            items = [item for item in page if self._selection.takes(item)]
            if shared:
                items = [item for item in items if key_of(item) not in shared]
            yield items

    async def _there(self, journal: Journal) -> Sums:
        """What of it the destination has, read back."""
        done, tally = 0, Tally()
        for part in self._selection.parts:
            if not self._is_compared(part, journal) or (part == "needs" and not tally.has_needs):
                continue

            async def sum_up(page: Sequence[Moved], part: Part = part) -> None:
                nonlocal done
                await next_turn()  # the store reads the next page meanwhile
                tally.add([item for item in page if is_moved(item, journal.base)], part)
                done += sum(isinstance(item, MovedJob) for item in page)
                self._tell(Progress("verifying", done, self._total))

            await each(self._target.pages(part), sum_up)
        return tally.sums()

    def _is_compared(self, part: Part, journal: Journal) -> bool:
        """Jobs always; other things where only those that moved can be there. Of keys all may run out meanwhile."""
        is_alone = self._selection.is_whole and not journal.is_merge
        return part == "jobs" or (is_alone and part != "keys")

    # ── after ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _freeze_target(self) -> None:
        if (await self._target.backend.info()).mode != "frozen":
            await self._target.switch("frozen")

    async def _open_target(self, journal: Journal | None) -> None:
        """The journal goes last: a run that was killed in between comes back to it.

        A destination that is on its way to a third place since is left as it is: it is not ours to open.
        """
        info = await self._target.backend.info()
        if info.mode == "frozen" and not info.moved_to:
            await self._target.switch("open")
        if journal is not None:
            await drop_journal(self._target)

    async def _drop_copied(self, journal: Journal) -> None:
        """Out of the source goes what the destination has: never a job that came after the copy."""
        done = 0
        parts: tuple[Part, ...] = ("jobs", "limits")
        for part in parts:
            async for page in self._target.pages(part):
                copied = [item for item in page if is_moved(item, journal.base) and self._selection.takes(item)]
                done += await self._source.drop(copied)
                self._tell(Progress("dropping", done, self._total))

    async def _take_out(self, journal: Journal) -> None:
        """What was copied leaves the destination; needs go with their jobs."""
        done = 0
        for part in reversed(self._selection.parts):
            if part == "needs":
                continue
            async for page in self._chosen(part, journal):
                done += await self._target.drop(page)
                self._tell(Progress("rolling back", done, self._total))

    async def rollback(self) -> None:
        """Take out of the destination what was copied, and open both. Raises InvalidState once the source is closed."""
        source, journal = await self._source.backend.info(), await read_journal(self._target)
        if source.mode == "moved" or (journal is not None and journal.phase == "dropping"):
            raise InvalidState(
                f"the jobs live at {self._target.address} by now: to have them back, move them back from there"
            )
        if journal is not None and journal.phase in LIVE:
            raise InvalidState("this move is one without a pause: `psyqueue migrate status` says how far it is")
        if journal is not None and journal.source != self._source.address:
            raise InvalidState(f"the move into {self._target.address} comes from {journal.source}, not from here")
        if journal is not None:
            self._selection = journal.selection
            await self._freeze_target()
            journal = await write_journal(self._target, replace(journal, phase="rolling back"))
            await self._take_out(journal)
        if journal is not None or source.moved_to == self._target.address:
            await self._open_target(journal)
        if source.mode == "frozen":
            await self._source.switch("open")


async def reopen(source: House, address: str) -> None:
    """Open a source whose destination, `address`, is lost before the deciding step. Raises InvalidState after it."""
    info = await source.backend.info()
    if info.mode != "frozen" or info.moved_to != address:
        raise InvalidState(
            f"{source.address} is {info.mode}, no move to {address} is under way: there is nothing to open"
        )
    await source.switch("open")
