"""One job, now, without a worker: for cron-driven and serverless set-ups, scripts and tests."""

from __future__ import annotations

import asyncio

from psyqueue.backend import AnyOutcome, Fetch, Renewal, Session, SettleReply
from psyqueue.ids import new_token
from psyqueue.kernel.aio import call_in, spawn
from psyqueue.kernel.announcer import Announcer
from psyqueue.kernel.children import Children
from psyqueue.kernel.core import Core
from psyqueue.kernel.executor import Executor
from psyqueue.kernel.lease_keeper import LeaseKeeper
from psyqueue.kernel.run import Run
from psyqueue.kernel.threads import Threads

LEASE_MS = 30_000
HANG_MS = 300_000


async def process_one(core: Core, queue: str) -> bool:
    """Promote what is due in `queue`, run its first job and settle it. False: nothing was startable.

    It never waits for a job. A session of its own covers the run, so that another process takes the job back if this one
    dies. Cancelled: the job is handed back.
    """
    single = _Single(core, queue)
    await single.open()
    try:
        return await single.step()
    finally:
        await single.close()


class _Single:
    def __init__(self, core: Core, queue: str) -> None:
        self._core = core
        self._queue = queue
        self._channel = core.new_channel()
        self._session_id = new_token()
        self._announcer = Announcer(core.bus)
        self._threads = Threads("psyqueue-single")
        self._children = Children()
        self._run: Run | None = None
        self._turns = 0
        self._keeper: LeaseKeeper | None = None

    async def open(self) -> None:
        session = Session(id=self._session_id, worker=self._core.name, queues=(self._queue,), lease_ms=LEASE_MS)
        await self._channel.run(lambda op: self._core.backend.open_session(op, session))

    async def step(self) -> bool:
        fetch = Fetch(queues=(self._queue,), count=1, token_seed=new_token())
        reply = await self._settle((), fetch)
        if not reply.deliveries:
            return False
        self._run = run = Run(reply.deliveries[0])
        self._keep_lease()
        self._announcer.started(run.delivery)
        executor = Executor(
            self._core,
            threads=self._threads,
            children=self._children,
            on_timeout=lambda run: run.stop("timeout", cancel_task=True),
            on_progress=lambda run: None,
        )
        run.task = spawn(executor.execute(run), name="psyqueue-single")
        try:
            await asyncio.shield(run.task)
        except asyncio.CancelledError:
            run.stop("release", cancel_task=True)
            await asyncio.wait({run.task})
            raise
        finally:
            if run.outcome is not None:
                await self._end(executor, run, run.outcome)
        return True

    async def _end(self, executor: Executor, run: Run, outcome: AnyOutcome) -> None:
        (settled,) = (await self._settle((outcome,), None)).settled
        if settled.verdict == "conflict":
            outcome = executor.conflicted(run)
            (settled,) = (await self._settle((outcome,), None)).settled
        self._announcer.settled(run.delivery, outcome, settled)

    async def _settle(self, outcomes: tuple[AnyOutcome, ...], fetch: Fetch | None) -> SettleReply:
        return await self._channel.run(
            lambda op: self._core.backend.settle(op, self._session_id, outcomes, fetch)
        )

    def _keep_lease(self) -> None:
        loop = asyncio.get_running_loop()
        self._keeper = LeaseKeeper(
            self._core.backend.keeper(),
            self._session_id,
            lease_ms=LEASE_MS,
            hang_ms=HANG_MS,
            clock=self._core.clock,
            turns=self._turn,
            on_renewal=lambda renewal: call_in(loop, self._renewed, renewal),
            on_hang=lambda: None,
        )
        self._keeper.start()

    def _turn(self) -> int:
        """A handler of one job may block the loop for as long as it likes: nobody else waits for it."""
        self._turns += 1
        return self._turns

    def _renewed(self, renewal: Renewal) -> None:
        run = self._run
        if run is None:
            return
        if not renewal.open:
            run.stop("lease-lost", cancel_task=True)
        elif run.delivery.id in renewal.cancel_requested:
            run.stop("cancel", cancel_task=True)

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.stop()
        self._threads.close()
        await self._children.close()
        await self._channel.run(lambda op: self._core.backend.close_session(op, self._session_id))
