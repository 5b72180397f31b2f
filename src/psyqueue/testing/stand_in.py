"""The store of a test: the memory store, and what a test reads of it without waiting."""

from __future__ import annotations

from collections.abc import Sequence

from psyqueue.backend import NO_EFFECTS, AnyOutcome, Bound, Effects, Enqueued, NewJob, Op, Settled
from psyqueue.backend.transactions import no_transactions
from psyqueue.backends._memory import MemoryBackend
from psyqueue.backends._memory.dequeue import next_start_in_ms
from psyqueue.backends._memory.operating import view
from psyqueue.backends._memory.state import Row
from psyqueue.ids import new_token
from psyqueue.kernel.context import progress_key
from psyqueue.kernel.views import JobView, view_of

PROMOTE_MAX = 500
_UNSTARTED = ("waiting", "scheduled", "pending")


class StandIn(MemoryBackend):
    """Takes `conn=` of every kind: the jobs are there at once, whatever becomes of the caller's transaction.

    Looks may come from any thread: a test without asyncio is in another one than its queue.
    """

    def bind(self, connection: object) -> Bound:  # noqa: ARG002 - as it says
        return _AtOnce(self)

    def now_ms(self) -> int:
        """Of the store's wall clock."""
        return self.store.now_ms()

    def view(self, job_id: str) -> JobView | None:
        """The job as it is now."""
        with self.lock_of_store:
            row = self.store.rows.get(job_id)
            return None if row is None else self._view(row)

    def views(self) -> list[JobView]:
        """All jobs, in order of creation."""
        with self.lock_of_store:
            return [self._view(row) for row in sorted(self.store.rows.values(), key=lambda row: row.number)]

    def pending_queues(self) -> list[str]:
        """The queue of each pending job, in the order in which they became pending."""
        pending = [row for row in self.store.rows.values() if row.status == "pending" and not row.held]
        pending.sort(key=lambda row: row.ready_number or 0)
        return [row.job.queue for row in pending]

    def unfinished(self) -> int:
        """Jobs that are pending or run."""
        return sum(row.status in ("pending", "active") for row in self.store.rows.values())

    def next_at_ms(self) -> int | None:
        """When time alone will next change something: a job is due or expires, a pause ends, a rate lets one start."""
        now_ms = self.now_ms()
        instants: list[int] = []
        for row in self.store.rows.values():
            if row.held or row.status not in _UNSTARTED:
                continue
            if row.status == "scheduled":
                instants.append(row.run_at_ms)
            if row.expires_at_ms is not None:
                instants.append(row.expires_at_ms)
        wait_ms = next_start_in_ms(self.store, self._queues(), now_ms)
        if wait_ms is not None:
            instants.append(now_ms + wait_ms)
        return min((at_ms for at_ms in instants if at_ms > now_ms), default=None)

    async def promote_due(self) -> list[str]:
        """Let happen what is due by now. The ids of the jobs that expired."""
        expired: list[str] = []
        while True:
            done = await self.promote(self._queues(), PROMOTE_MAX)
            expired += [job_id for job_id in done.ids if self.store.rows[job_id].status == "dead"]
            if not done.more:
                return expired

    def _queues(self) -> tuple[str, ...]:
        rows = self.store.rows.values()
        return tuple(dict.fromkeys(row.job.queue for row in rows if row.status in _UNSTARTED))

    def _view(self, row: Row) -> JobView:
        cell = self.store.cells.get(progress_key(row.job.id))
        return view_of(view(self.store, row, self.now_ms()), None if cell is None else cell.item.value)


class _AtOnce:
    """What `bind` gives: no transaction at all."""

    def __init__(self, store: StandIn) -> None:
        self._store = store

    async def enqueue(self, jobs: Sequence[NewJob], effects: Effects = NO_EFFECTS) -> tuple[Enqueued, ...]:
        return await self._store.enqueue(Op(new_token(), 1, 1), jobs, effects)

    async def settle(self, session_id: str, outcomes: Sequence[AnyOutcome]) -> tuple[Settled, ...]:  # noqa: ARG002 - has no way to
        raise no_transactions("test's")
