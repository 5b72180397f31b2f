"""A transaction in the store's own database: what a handler writes in it is true if and only if its job has ended."""

from __future__ import annotations

from typing import Any, Protocol

from psyqueue.backend.outcomes import AnyOutcome, Settled
from psyqueue.errors import InvalidState


class Transaction(Protocol):
    """Begun, with a connection for one user. It ends once, by `commit` or `rollback`, and the connection with it."""

    @property
    def connection(self) -> Any:
        """Of a kind that `bind` takes."""
        ...

    async def commit(self, session_id: str, outcome: AnyOutcome) -> Settled:
        """Settle one delivery and commit, in one step. A verdict other than "ok": all of it was rolled back.

        Raises as `settle`, and InvalidState for a transaction that cannot be committed. After any error but
        `StoreUnavailable(outcome="unknown")` all of it was rolled back. After that one (and when it is cancelled) it
        may have been committed: an outcome of the same delivery, sent by `settle`, is then `already`.
        """
        ...

    async def rollback(self) -> None:
        """Never raises. After the end: nothing."""
        ...


def no_transactions(store: str) -> InvalidState:
    """For `begin` of a store that has none."""
    return InvalidState(
        f"the {store} store has no transaction that a handler could share. Let the write be one that may happen twice "
        "(by ctx.job.id, or turned away by ctx.fence), use ctx.enqueue for jobs that must come with the ack, or keep "
        "jobs and data in one PostgreSQL database"
    )
