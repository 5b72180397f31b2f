"""One job, now, without a worker: for cron-driven and serverless set-ups, scripts and tests."""

from __future__ import annotations

import asyncio
import logging

from psyqueue.backend import Fetch, Renewal
from psyqueue.errors import SessionLost
from psyqueue.ids import new_token
from psyqueue.kernel.aio import finish, within_ms
from psyqueue.kernel.announcer import Announcer
from psyqueue.kernel.children import Children
from psyqueue.kernel.core import Core
from psyqueue.kernel.executor import Executor
from psyqueue.kernel.lease_keeper import LeaseKeeper
from psyqueue.kernel.ops import GIVE_UP_MS
from psyqueue.kernel.prefetch import Prefetch
from psyqueue.kernel.run import Run
from psyqueue.kernel.settler import CLOSE_MS, Settler
from psyqueue.kernel.slots import ABANDON_MS, Slots
from psyqueue.kernel.threads import Threads

log: logging.Logger = logging.getLogger(__name__)

LEASE_MS = 30_000
HANG_MS = 300_000


async def process_next(core: Core, queue: str) -> bool:
    """As `process_one`; in a test as the test runs jobs."""
    return await (process_one(core, queue) if core.rehearsal is None else core.rehearsal.process_next(queue))


async def process_one(core: Core, queue: str, threads: Threads | None = None) -> bool:
    """Promote what is due in `queue`, run its first job and settle it. False: nothing was startable.

    It never waits for a job. A session of its own covers the run, so that another process takes the job back if this
    one dies. Cancelled: the job is handed back, then CancelledError goes on. A plain handler runs in `threads`.
    """
    single = _Single(core, queue, threads or Threads("psyqueue-single"))
    return await finish(single.work(), on_cancel=single.stop, limit_ms=ABANDON_MS + 2 * CLOSE_MS)


class _Single:
    """A worker with one slot that asks once. A store that stays away is an error here, not something to sit out."""

    def __init__(self, core: Core, queue: str, threads: Threads) -> None:
        self._core = core
        self._queue = queue
        self._threads = threads
        self._children = Children()
        self._wake = asyncio.Event()
        self._turns = 0
        self._keeper: LeaseKeeper | None = None
        announcer = Announcer(core.bus)
        executor = Executor(
            core,
            announcer=announcer,
            threads=threads,
            children=self._children,
            on_timeout=self._timed_out,
            on_progress=self._progressed,
            on_trouble=_trouble,
            session_id=lambda: self._settler.session_id,
        )
        self._slots = Slots(
            executor,
            size=1,
            batch=core.backend.capabilities.batch_max,
            prefetch=Prefetch(1, 0),
            announcer=announcer,
            wake=self._wake.set,
            stuck=self._wake.set,
        )
        self._settler = Settler(
            core,
            slots=self._slots,
            executor=executor,
            announcer=announcer,
            trouble=_trouble,
            give_up_ms=GIVE_UP_MS,
        )

    async def work(self) -> bool:
        await self._core.lifespan.enter()
        await self._settler.open(self._core.name, (self._queue,), LEASE_MS)
        try:
            fetch = Fetch(queues=(self._queue,), count=1, token_seed=new_token())
            reply = await self._settler.send((), fetch)
            if not reply.deliveries:
                return False
            self._keep_lease()
            self._slots.receive(reply.deliveries)
            await self._until_settled()
            return True
        finally:
            await self._close()

    def stop(self) -> None:
        """The caller was cancelled: whatever is held goes back."""
        self._slots.close()
        self._slots.stop_all("release")

    async def _until_settled(self) -> None:
        slots = self._slots
        while slots.held > 0:
            self._wake.clear()
            slots.start_apart()
            if not slots.has_news:
                await self._wake.wait()
                continue
            try:
                await self._settler.send(slots.take_outcomes(), None)
            except SessionLost:
                self._lose()

    async def _close(self) -> None:
        await self._slots.end()
        self._threads.close()
        if self._keeper is not None:
            self._keeper.stop()
        await within_ms(CLOSE_MS, self._children.close())
        await within_ms(2 * CLOSE_MS, self._settler.close())
        if self._keeper is not None:
            await within_ms(CLOSE_MS, self._keeper.ended.wait())

    # ── told from outside ─────────────────────────────────────────────────────────────────────────────────────────────
    def _timed_out(self, run: Run) -> None:
        self._slots.stop_run(run, "timeout")

    def _progressed(self, run: Run) -> None:
        self._slots.progressed(run)

    def _keep_lease(self) -> None:
        self._keeper = LeaseKeeper(
            self._core.backend.keeper(),
            self._settler.session_id,
            lease_ms=LEASE_MS,
            hang_ms=HANG_MS,
            clock=self._core.clock,
            turns=self._turn,
            on_renewal=self._renewed,
            on_hang=self._wake.set,
        )
        self._keeper.start()

    def _turn(self) -> int:
        """A handler of one job may block the loop for as long as it likes: nobody else waits for it."""
        self._turns += 1
        return self._turns

    def _renewed(self, renewal: Renewal) -> None:
        if not renewal.open:
            self._lose()
        elif renewal.cancel_requested:
            self._slots.cancel(renewal.cancel_requested)

    def _lose(self) -> None:
        log.warning("session lost, its job went to others", extra={"queue": self._queue})
        if self._keeper is not None:
            self._keeper.stop()
        self._settler.lose()
        self._slots.lose_all()
        self._wake.set()


def _trouble(error: BaseException) -> None:
    log.warning("there is trouble", extra={"error": str(error)})
