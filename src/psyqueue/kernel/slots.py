"""What a worker holds: deliveries that wait for a slot, runs in their slots, outcomes that wait for the store.

It never calls the store; the worker's loop takes the outcomes from here and brings new deliveries. A slot is a task
that runs one delivery after another: a task for each job would cost more than all the rest of the worker
(docs/adr/0005). Each run has a context of its own all the same, and its slot's task is its task from the first step to
the last.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from psyqueue.backend import AnyOutcome, Delivery, Keep, Release
from psyqueue.kernel.aio import call_later_ms, next_turn, settle_down, spawn
from psyqueue.kernel.context import StopReason
from psyqueue.kernel.executor import Executor
from psyqueue.kernel.progress import Progress
from psyqueue.kernel.run import Run, with_progress

if TYPE_CHECKING:
    from psyqueue.kernel.announcer import Announcer
    from psyqueue.kernel.prefetch import Prefetch

log: logging.Logger = logging.getLogger(__name__)

ABANDON_MS = 5_000
"""A run that ignores its stop for this long is settled without it; its slot stays taken until it really ends."""
BREATH_MS = 5.0
"""A slot whose handlers never wait lets the others, and the worker's loop, have a turn this often."""
JAM_MS = 1_000
"""What a delivery that waited for nothing this long tells the prefetch about the run time of its queue."""

Entry = tuple[Run, AnyOutcome]


class Slots:
    """`wake()` is called when there is something for the loop, `stuck()` when no slot can ever be free again.

    `held` counts the deliveries that the session holds: waiting, running, or not yet settled. Of a session that is lost
    those that still run. `unknown`: how many more the store counts to it; `is_in_doubt`: the next fetch is to tell.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        size: int,
        batch: int,
        prefetch: Prefetch,
        announcer: Announcer,
        wake: Callable[[], None],
        stuck: Callable[[], None],
    ) -> None:
        self.held: int = 0
        self.unknown: int = 0
        self.is_in_doubt: bool = False
        self.running: set[Run] = set()
        self._executor = executor
        self._size = size
        self._batch = batch
        self._prefetch = prefetch
        self._announcer = announcer
        self._wake = wake
        self._stuck = stuck
        self._ready: deque[Run] = deque()
        self._apart: deque[Run] = deque()
        self._alone: Run | None = None
        self._zombies: set[Run] = set()
        self._outcomes: list[Entry] = []
        self._progress = Progress(wake)
        self._full_timer: asyncio.TimerHandle | None = None
        self._slots: set[asyncio.Task[None]] = set()
        self._parked: list[asyncio.Future[None]] = []
        self._is_watched = False
        self._ended_beside = 0
        """Runs that committed by themselves since the last call went out: the store may have counted them in it."""
        self._breathing = 0
        """Slots that go on by themselves in the next turn."""
        # Slots may be opened out of any callback: what a job left in its context must not become theirs.
        self._context = contextvars.copy_context()
        self._jammed: Run | None = None
        self._is_closed = False
        self._is_over = False

    # ── deliveries in ─────────────────────────────────────────────────────────────────────────────────────────────────
    def room(self) -> int:
        """How many deliveries to ask for: free slots and prefetch, less what is held."""
        if self._is_closed or self._apart or self._alone or self.unknown:
            return 0
        # What ended goes out with the very call that fetches: its places are free by then.
        leaving = min(len(self._outcomes), self._batch)
        return self._free_size() + self._prefetch.size() - self.held + leaving

    def receive(self, deliveries: Iterable[Delivery], held: int | None = None) -> None:
        """Take them in and start what finds a slot. `held`: with them, as the store counts."""
        for delivery in deliveries:
            self.held += 1
            # One more loss would bury it: alone in the worker it can only take itself down, or show its innocence.
            is_suspect = 0 < delivery.lost >= delivery.max_lost
            (self._apart if is_suspect else self._ready).append(Run(delivery))
        if held is not None:
            self.is_in_doubt = False
            unknown = held - self.held - self._ended_beside
            if unknown > 0:
                self._stray(unknown)
        if self._apart:
            # Suspects run alone: what waits goes back to its place, of the suspects all but the first.
            first = self._apart[0]
            self._hand_back(lambda run: run is not first)
        if self._is_closed:
            self.close()
        self.dispatch()

    @property
    def is_astray(self) -> bool:
        """All that the session still holds is unknown here."""
        return self.unknown > 0 and self.held == 0

    def _stray(self, unknown: int) -> None:
        """Nobody would ever end these. They go back with the session, and that is over as soon as the others ended."""
        log.warning("the store counts unknown jobs to the session", extra={"unknown": unknown, "held": self.held})
        self.unknown = unknown
        self._hand_back(_any_run)

    def close(self) -> None:
        """Start nothing more: what waits for a slot goes back with no attempt used."""
        self._is_closed = True
        self._hand_back(_any_run)

    def hand_back_queues(self, queues: Collection[str]) -> None:
        """These were paused: what waits of them goes back."""
        self._hand_back(lambda run: run.delivery.queue in queues)

    def look_for_jam(self) -> None:
        """Called now and then. What was prefetched behind runs that turn out to be long goes to others."""
        first = self._ready[0] if self._ready else None
        if first is not None and first is self._jammed and self._prefetch.is_adaptive:
            self._prefetch.note(JAM_MS)
            self._hand_back(_any_run)
        self._jammed = first

    def _hand_back(self, is_meant: Callable[[Run], bool]) -> None:
        for waiting in (self._ready, self._apart):
            meant = [run for run in waiting if is_meant(run)]
            if not meant:
                continue
            left = [run for run in waiting if not is_meant(run)]
            waiting.clear()
            waiting.extend(left)
            for run in meant:
                if run is self._alone:
                    self._alone = None
                delivery = run.delivery
                self._outcomes.append((run, Release(job_id=delivery.id, completion_token=delivery.completion_token)))
            self._wake()

    # ── outcomes out ──────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def has_news(self) -> bool:
        return bool(self._outcomes) or self._progress.is_due

    def take_outcomes(self) -> list[Entry]:
        """What gathered for the next call, oldest first; progress of running jobs rides along."""
        self._ended_beside = 0
        entries, self._outcomes = self._outcomes[: self._batch], self._outcomes[self._batch :]
        if (room := (self._batch - len(entries)) // 2) > 0:
            entries += self._progress.take(room)
        return entries

    def put_back(self, entries: Sequence[Entry]) -> None:
        """They were not written: they go out again, first."""
        self._outcomes[:0] = [entry for entry in entries if not isinstance(entry[1], Keep)]
        for run, outcome in entries:
            if isinstance(outcome, Keep) and run in self.running:
                self._progress.put_back(run)

    def put(self, run: Run) -> None:
        """Hand the outcome to the loop; a run that is settled, or no longer counts, only frees its place."""
        if run.settled is not None:
            self.held -= 1
            self._ended_beside += 1
            assert run.outcome is not None, run.delivery.id
            if not run.is_lost or run.settled.verdict == "ok":
                self._announcer.settled(run.delivery, run.outcome, run.settled)
        elif run.is_lost:
            self.held -= 1
        else:
            assert run.outcome is not None, run.delivery.id
            self._outcomes.append((run, run.outcome))
        self._wake()

    def forgive(self) -> None:
        """The loop is torn down, and every task was cancelled with it: that was no failure of a handler."""
        self._outcomes = [
            (run, self._executor.stopped(run)) if run.stop_reason == "unasked" else (run, outcome)
            for run, outcome in self._outcomes
        ]

    def progressed(self, run: Run) -> None:
        """It tells of itself while it runs."""
        if run in self.running and not run.is_lost:
            self._progress.note(run)

    # ── runs ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    def start_apart(self) -> None:
        """Start the suspect that waits, once it is the only delivery held."""
        if self._apart and self.held == 1:
            self._alone = self._apart.popleft()
            self._ready.append(self._alone)
            self.dispatch()

    def dispatch(self) -> None:
        """Let a slot begin with what waits. Where its handler waits for something, the others follow at once."""
        self._wake_slots(min(len(self._ready), 1))

    def _wake_slots(self, wanted: int) -> None:
        """Wake as many, or open new ones up to the size."""
        wanted = min(wanted, self._free_size())
        while wanted > 0 and self._parked:
            parked = self._parked.pop()
            if not parked.done():
                parked.set_result(None)
                wanted -= 1
        while wanted > 0 and len(self._slots) < self._size:
            context = self._context.copy()
            self._slots.add(spawn(self._serve(), name=f"psyqueue-slot-{len(self._slots)}", context=context))
            wanted -= 1

    def _watch(self) -> None:
        """Called by a slot that begins to work: look once it has given up its turn."""
        if not self._is_watched:
            self._is_watched = True
            asyncio.get_running_loop().call_soon(self._help_out)

    def _help_out(self) -> None:
        """Handlers that never wait leave nothing to the other slots; of one that does, they take what it cannot."""
        self._is_watched = False
        if not self._breathing:
            self._wake_slots(len(self._ready))

    async def end(self) -> None:
        """Everything goes back, at once: runs get `ABANDON_MS` to end, then they are left behind."""
        self._is_over = True
        self.close()
        self.stop_all("release")
        self._progress.end()
        if self._full_timer is not None:
            self._full_timer.cancel()
        for parked in self._parked:
            if not parked.done():
                parked.set_result(None)
        left_behind = {run.task for run in self._zombies}
        await settle_down([slot for slot in self._slots if slot not in left_behind], ABANDON_MS)
        for run in list(self.running):
            self._abandon(run)

    def _free_size(self) -> int:
        return max(0, self._size - len(self._zombies) - self._executor.abandoned)

    def _next(self) -> Run | None:
        if not self._ready or len(self.running) >= self._free_size():
            return None
        return self._ready.popleft()

    async def _serve(self) -> None:
        """A slot, until the worker ends."""
        slot = asyncio.current_task()
        assert slot is not None
        busy_ms = 0.0
        self._watch()
        try:
            while not self._is_over:
                run = self._next()
                if run is None:
                    await self._park(slot)
                    busy_ms = 0.0
                    self._watch()
                    continue
                await self._run(run, slot)
                busy_ms += run.run_ms
                if busy_ms > BREATH_MS:
                    busy_ms = 0.0
                    await self._breathe()
        finally:
            # Whatever took it down, another one can take its place.
            self._slots.discard(slot)

    async def _breathe(self) -> None:
        self._breathing += 1
        try:
            await next_turn()
        finally:
            self._breathing -= 1
            self._watch()

    async def _run(self, run: Run, slot: asyncio.Task[None]) -> None:
        run.task = slot
        self.running.add(run)
        try:
            await self._executor.execute(run)
        except Exception as bug:
            # The executor's own failure must not end the slot with the job in it.
            log.exception("executor failed", extra={"job_id": run.delivery.id})
            run.outcome = self._executor.failed_after(run, bug)
        finally:
            # Also when the process is interrupted right here: the slot goes down, its job goes back.
            self._ended(run)
        if slot.cancelling() and not self._is_over:
            await self._calm(slot)

    def _ended(self, run: Run) -> None:
        if run in self._zombies:
            self._zombies.discard(run)
            self.returned()
            return
        self.running.discard(run)
        if run is self._alone:
            self._alone = None
        if run.run_ms > 0:
            self._prefetch.note(run.run_ms)
        outcome = run.outcome or self._executor.stopped(run)
        if run.has_progress or run.settled is not None:
            self._progress.forget(run)
        if run.has_progress and run.settled is None:
            outcome = with_progress(run, outcome)
        run.outcome = outcome
        self.put(run)
        if run.stop_reason is not None:
            self._watch_full()

    async def _calm(self, slot: asyncio.Task[None]) -> None:
        """Take what is left of a cancel that was meant for the last run, so that it does not hit the next."""
        try:
            await next_turn()
        except asyncio.CancelledError:
            if self._is_over:
                raise
        while slot.cancelling():
            slot.uncancel()

    async def _park(self, slot: asyncio.Task[None]) -> None:
        parked = asyncio.get_running_loop().create_future()
        self._parked.append(parked)
        try:
            await parked
        except asyncio.CancelledError:
            if parked in self._parked:
                self._parked.remove(parked)
            if self._is_over:
                raise
            await self._calm(slot)

    # ── stops ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def stop_run(self, run: Run, reason: StopReason) -> None:
        """Tell a run to end; it is settled without its consent after `ABANDON_MS`."""
        if run not in self.running:
            return
        # A thread that was asked to cancel gets the time it needs: what it did until then may matter.
        may_finish = reason == "cancel" and self._executor.is_thread(run)
        if run.stop(reason, interrupt=not may_finish):
            call_later_ms(ABANDON_MS, self._abandon, run)

    def stop_all(self, reason: StopReason) -> None:
        for run in list(self.running):
            self.stop_run(run, reason)

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Somebody asked for it. What waits for a slot is settled at once."""
        wanted = frozenset(job_ids)
        for run in list(self.running):
            if run.delivery.id in wanted and run.stop_reason is None:
                self.stop_run(run, "cancel")
        # The store turns the release of a job that is to be cancelled into its end.
        self._hand_back(lambda run: run.delivery.id in wanted)

    def lose(self, run: Run) -> None:
        """This delivery is no longer ours."""
        if not run.is_lost:
            self._announcer.lease_lost(run.delivery)
        self._progress.forget(run)
        self.stop_run(run, "lease-lost")

    def lose_all(self) -> None:
        """The session is gone, and with it everything it held. Runs are told; what they say no longer counts."""
        for run in [*(run for run, _ in self._outcomes), *self._ready, *self._apart]:
            self._announcer.lease_lost(run.delivery)
        self._outcomes.clear()
        self._ready.clear()
        self._apart.clear()
        self._progress.clear()
        if self._alone not in self.running:
            self._alone = None
        self.held, self.unknown = len(self.running), 0
        for run in list(self.running):
            self.lose(run)

    def returned(self) -> None:
        """A run that had been left behind ended after all: its slot, or its thread, is there again."""
        if self._full_timer is not None:
            self._full_timer.cancel()
            self._full_timer = None
        self.dispatch()
        self._watch_full()
        self._wake()

    def _abandon(self, run: Run) -> None:
        """The handler ignores its stop: settle without it; the slot is lost until it returns."""
        if run not in self.running:
            return
        self.running.discard(run)
        self._zombies.add(run)
        self._progress.forget(run)
        if run is self._alone:
            self._alone = None
        log.error("handler ignores its stop", extra={"job_id": run.delivery.id, "reason": run.stop_reason})
        run.outcome = self._executor.stopped(run)
        self.put(run)
        self._watch_full()

    def _watch_full(self) -> None:
        """Every slot is held by a run that was left behind: unless one comes back soon, none ever will."""
        if self._full_timer is None and not self._is_closed and self._free_size() == 0:
            self._full_timer = call_later_ms(ABANDON_MS, self._give_up)

    def _give_up(self) -> None:
        self._full_timer = None
        if self._free_size() == 0 and not self._is_closed:
            self._stuck()


def _any_run(run: Run) -> bool:  # noqa: ARG001 - a question that is always answered yes
    return True
