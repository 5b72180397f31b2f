"""Enqueue and settle in a transaction of one of the two stores' databases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from psyqueue.backend import NO_EFFECTS, AnyOutcome, BackendAdapter, Effects, Enqueued, NewJob, Settled
from psyqueue.backend.transactions import Transaction
from psyqueue.errors import InvalidState, NamespaceFrozen
from psyqueue.moving.routes import Routes

if TYPE_CHECKING:
    from psyqueue.moving.sessions import Sessions


class MovingBound:
    """In the caller's own transaction: in the store that takes new jobs now, whose connection it has to be."""

    def __init__(self, routes: Routes, connection: object) -> None:
        self._routes = routes
        self._bound = routes.intake.bind(connection)

    async def enqueue(self, jobs: Sequence[NewJob], effects: Effects = NO_EFFECTS) -> tuple[Enqueued, ...]:
        """Raises InvalidState for what only both stores together could decide in one step."""
        if self._routes.is_switched and not self._routes.is_done:
            bound = [job for job in jobs if job.unique or job.idempotency or job.gate or job.needs]
            if bound:
                raise InvalidState(
                    f"job {bound[0].id!r} has a key or needs, which the store that is being moved from may know: that "
                    "cannot be decided in a transaction of yours. Enqueue it after the commit, or when the move is over"
                )
        try:
            return await self._bound.enqueue(jobs, effects)
        except NamespaceFrozen:
            # This transaction is over; the next one shall find the right store. A call that is bound to its caller's
            # thread cannot wait for that.
            self._routes.learn_soon()
            raise

    async def settle(self, session_id: str, outcomes: Sequence[AnyOutcome]) -> tuple[Settled, ...]:
        """As `Bound.settle`."""
        return await self._bound.settle(session_id, outcomes)


class MovingTransaction:
    """A handler's transaction in the store that gives out jobs now."""

    def __init__(self, inner: Transaction, store: BackendAdapter, sessions: Sessions) -> None:
        self._inner = inner
        self._store = store
        self._sessions = sessions

    @property
    def connection(self) -> Any:
        return self._inner.connection

    async def commit(self, session_id: str, outcome: AnyOutcome) -> Settled:
        """Raises InvalidState if the job came from the other store: everything is rolled back, and it runs again."""
        if self._sessions.store_of(session_id, outcome) is not self._store:
            await self._inner.rollback()
            raise InvalidState("the job's store was switched while it ran: nothing was committed, it runs again")
        return await self._inner.commit(session_id, outcome)

    async def rollback(self) -> None:
        await self._inner.rollback()
