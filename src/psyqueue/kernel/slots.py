"""What a worker holds: deliveries that wait for a slot, runs in their slots, outcomes that wait for the store.

It never calls the store; the worker's loop takes the outcomes from here and brings new deliveries. A slot is a task that
runs one delivery after another: a task for each job would cost more than all the rest of the worker (docs/adr/0005).
Each run has a context of its own all the same, and its slot's task is its task from the first step to the last.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from psyqueue.backend import AnyOutcome, Delivery, Effects, Keep, Release, StateWrite
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.kernel.aio import call_later_ms, next_turn, spawn
from psyqueue.kernel.executor import Executor
from psyqueue.kernel.run import Run, StopReason

if TYPE_CHECKING:
    from psyqueue.kernel.announcer import Announcer
    from psyqueue.kernel.prefetch import Prefetch

log = logging.getLogger(__name__)

ABANDON_MS = 5_000
"""A run that ignores its stop for this long is settled without it; its slot stays taken until it really ends."""
PROGRESS_KEPT_MS = 86_400_000
BREATH_MS = 2.0
"""A slot whose handlers never wait lets the others, and the worker's loop, have a turn this often."""

Entry = tuple[Run, AnyOutcome]


class Slots:
    """`wake()` is called when there is something for the loop, `stuck()` when no slot can ever be free again.

    `held` counts the deliveries that the session holds: waiting, running, or not yet settled.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        size: int,
        prefetch: Prefetch,
        announcer: Announcer,
        wake: Callable[[], None],
        stuck: Callable[[], None],
    ) -> None:
        self.held = 0
        self.running: set[Run] = set()
        self._executor = executor
        self._size = size
        self._prefetch = prefetch
        self._announcer = announcer
        self._wake = wake
        self._stuck = stuck
        self._ready: deque[Run] = deque()
        self._apart: deque[Run] = deque()
        self._alone: Run | None = None
        self._zombies: set[Run] = set()
        self._outcomes: list[Entry] = []
        self._progressed: dict[str, Run] = {}
        self._slots: list[asyncio.Task[None]] = []
        self._parked: list[asyncio.Future[None]] = []
        self._is_closed = False
        self._is_over = False

    # ── deliveries in ─────────────────────────────────────────────────────────────────────────────────────────────────
    def room(self) -> int:
        """How many deliveries to ask for: free slots and prefetch, less what is held."""
        if self._is_closed or self._apart or self._alone:
            return 0
        return self._free_size() + self._prefetch.size() - self.held

    def receive(self, deliveries: Iterable[Delivery]) -> None:
        """Take them in and start what finds a slot."""
        for delivery in deliveries:
            self.held += 1
            # One more loss would bury it: alone in the worker it can only take itself down, or show its innocence.
            is_suspect = 0 < delivery.lost >= delivery.max_lost
            (self._apart if is_suspect else self._ready).append(Run(delivery))
        if self._apart:
            self._make_room_apart()
        if self._is_closed:
            self.close()
        self.dispatch()

    def close(self) -> None:
        """Start nothing more: what waits for a slot goes back with no attempt used."""
        self._is_closed = True
        self._hand_back((*self._ready, *self._apart))
        self._ready.clear()
        self._apart.clear()

    def hand_back_queues(self, queues: Collection[str]) -> None:
        """These were paused: what waits of them goes back."""
        paused = [run for run in self._ready if run.delivery.queue in queues]
        if paused:
            self._ready = deque(run for run in self._ready if run.delivery.queue not in queues)
            self._hand_back(paused)

    def _hand_back(self, runs: Iterable[Run]) -> None:
        for run in runs:
            delivery = run.delivery
            self._outcomes.append((run, Release(job_id=delivery.id, completion_token=delivery.completion_token)))
            self._wake()

    def _make_room_apart(self) -> None:
        """Suspects run alone: what waits goes back to its place, of the suspects all but the first."""
        self._hand_back(self._ready)
        self._ready.clear()
        self._hand_back(list(self._apart)[1:])
        while len(self._apart) > 1:
            self._apart.pop()

    # ── outcomes out ──────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def has_news(self) -> bool:
        return bool(self._outcomes or self._progressed)

    def take_outcomes(self) -> list[Entry]:
        """What gathered for the next call, oldest first; progress of running jobs rides along."""
        entries, self._outcomes = self._outcomes[:ITEMS_MAX], self._outcomes[ITEMS_MAX:]
        if self._progressed and len(entries) < ITEMS_MAX // 2:
            entries += self._take_progress(ITEMS_MAX // 4)
        return entries

    def put_back(self, entries: Sequence[Entry]) -> None:
        """They were not written: they go out again, first."""
        self._outcomes[:0] = [entry for entry in entries if not isinstance(entry[1], Keep)]

    def put(self, run: Run) -> None:
        """Hand the outcome to the loop; a run that no longer counts only frees its place."""
        if run.outcome is None:
            self.held -= 1
        else:
            self._outcomes.append((run, run.outcome))
        self._wake()

    def _take_progress(self, count: int) -> list[Entry]:
        """The last progress of runs that still run, as effects of a `Keep`."""
        entries: list[Entry] = []
        for job_id in list(self._progressed)[:count]:
            run = self._progressed.pop(job_id)
            if run not in self.running or run.progress is None:
                continue
            write = StateWrite(kind="put", key=progress_key(job_id), value=run.progress, ttl_ms=PROGRESS_KEPT_MS)
            token = run.delivery.completion_token
            entries.append((run, Keep(job_id=job_id, completion_token=token, effects=Effects(writes=(write,)))))
        return entries

    # ── runs ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    def start_apart(self) -> None:
        """Start the suspect that waits, once it is the only delivery held."""
        if self._apart and self.held == 1:
            self._alone = self._apart.popleft()
            self._ready.append(self._alone)
            self.dispatch()

    def dispatch(self) -> None:
        """Wake as many slots as there are deliveries to run; open new ones up to the size."""
        wanted = min(len(self._ready), self._free_size())
        while wanted > 0 and self._parked:
            self._parked.pop().set_result(None)
            wanted -= 1
        while wanted > 0 and len(self._slots) < self._size:
            self._slots.append(spawn(self._serve(), name=f"psyqueue-slot-{len(self._slots)}"))
            wanted -= 1

    async def end(self) -> None:
        """Cancel every slot, whatever it runs; outcomes that come now are too late."""
        self._is_over = True
        for slot in self._slots:
            slot.cancel()
        if self._slots:
            await asyncio.wait(self._slots, timeout=1)

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
        while not self._is_over:
            run = self._next()
            if run is None:
                await self._park(slot)
                busy_ms = 0.0
                continue
            await self._run(run, slot)
            busy_ms += run.run_ms
            if busy_ms > BREATH_MS:
                busy_ms = 0.0
                await next_turn()

    async def _run(self, run: Run, slot: asyncio.Task[None]) -> None:
        run.task = slot
        self.running.add(run)
        self._announcer.started(run.delivery)
        try:
            await self._executor.execute(run)
        except Exception as bug:  # noqa: BLE001 - the executor's own failure must not end the slot with the job in it
            log.exception("executor failed", extra={"job_id": run.delivery.id})
            run.outcome = self._executor.failed_after(run, bug)
        self._ended(run)
        if slot.cancelling() and not self._is_over:
            await self._calm(slot)

    def _ended(self, run: Run) -> None:
        if run in self._zombies:
            self._zombies.discard(run)
            self._wake()
            return
        self.running.discard(run)
        if run is self._alone:
            self._alone = None
        self._prefetch.note(run.run_ms)
        self.put(run)

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
            if self._is_over:
                raise
            await self._calm(slot)
        finally:
            if parked in self._parked:
                self._parked.remove(parked)

    # ── stops ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def stop_run(self, run: Run, reason: StopReason) -> None:
        """Tell a run to end; it is settled without its consent after `ABANDON_MS`."""
        if run not in self.running:
            return
        # A thread that was asked to cancel gets the time it needs: what it did until then may matter.
        may_finish = reason == "cancel" and self._executor.is_thread(run)
        run.stop(reason, cancel_task=not may_finish)
        if not may_finish:
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
        waiting = [run for run in self._ready if run.delivery.id in wanted]
        if waiting:
            self._ready = deque(run for run in self._ready if run.delivery.id not in wanted)
            # The store turns the release of a job that is to be cancelled into its end.
            self._hand_back(waiting)

    def progressed(self, run: Run) -> None:
        self._progressed[run.delivery.id] = run
        self._wake()

    def lose_all(self) -> None:
        """The session is gone, and with it everything it held. Runs are told; what they say no longer counts."""
        lost = [*(run for run, _ in self._outcomes), *self._ready, *self._apart, *self.running]
        for run in lost:
            self._announcer.lease_lost(run.delivery)
        self._outcomes.clear()
        self._ready.clear()
        self._apart.clear()
        self.held = len(self.running)
        self.stop_all("lease-lost")

    def _abandon(self, run: Run) -> None:
        """The handler ignores its stop: settle without it; the slot is lost until it returns."""
        if run not in self.running:
            return
        self.running.discard(run)
        self._zombies.add(run)
        if run is self._alone:
            self._alone = None
        log.error("handler ignores its stop", extra={"job_id": run.delivery.id, "reason": run.stop_reason})
        run.outcome = self._executor.stopped(run)
        self.put(run)
        if self._free_size() == 0 and not self._is_closed:
            self._stuck()


def progress_key(job_id: str) -> str:
    """Where `ctx.progress` keeps the last value, in the shared state."""
    return f"progress:{job_id}"
