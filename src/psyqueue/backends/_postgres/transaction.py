"""A transaction of the store's own for a handler: its writes and the end of its job are committed together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from psyqueue.backend import AnyOutcome, Settled
from psyqueue.backend.failpoints import failpoint
from psyqueue.backends._postgres import binding
from psyqueue.backends._postgres.faults import CALL_ERRORS, lost, translate
from psyqueue.errors import InvalidState, Refused, StoreUnavailable

if TYPE_CHECKING:
    from psyqueue.backends._postgres.client import Client
    from psyqueue.backends._postgres.pool import Lender

IDLE_MS: Final = 10_000
"""From the settle on the transaction holds the job. A client that is gone must not do so until the network notices."""


class PostgresTransaction:
    """`connection` is one of asyncpg, in read committed. `transaction()` of it makes a savepoint."""

    def __init__(self, client: Client, lender: Lender, connection: Any, limit_ms: int) -> None:
        self.connection = connection
        self._client = client
        self._lender = lender
        self._limit_s = limit_ms / 1000
        self._transaction = connection.transaction(isolation="read_committed")
        self._is_over = False

    @classmethod
    async def begin(cls, client: Client, lender: Lender, limit_ms: int) -> PostgresTransaction:
        """Raises StoreError."""
        try:
            connection = await lender.acquire()
            made = cls(client, lender, connection, limit_ms)
            try:
                await made._transaction.start()
            except BaseException:
                await made._cut()
                raise
        except CALL_ERRORS as exc:
            raise translate(exc, client.place) from exc
        return made

    async def commit(self, session_id: str, outcome: AnyOutcome) -> Settled:
        try:
            async with asyncio.timeout(self._limit_s):
                bound = binding.bind(self._client, self.connection)
                (settled,) = await bound.settle(session_id, (outcome,), idle_ms=IDLE_MS)
                if settled.verdict == "ok":
                    failpoint("postgres.transaction.settled")
                    await self._commit()
                    failpoint("postgres.transaction.committed")
        except Refused:
            await self.rollback()
            raise
        except BaseException as exc:
            await self._cut()
            if isinstance(exc, TimeoutError):
                raise lost(self._client.place, "no reply to the commit within statement_timeout") from exc
            raise
        if settled.verdict == "ok":
            await self._end()
        else:
            await self.rollback()
        return settled

    async def rollback(self) -> None:
        if self._is_over:
            return
        try:
            async with asyncio.timeout(self._limit_s):
                await self._transaction.rollback()
        except CALL_ERRORS:
            await self._cut()
        except BaseException:
            await self._cut()
            raise
        else:
            await self._end()

    async def _commit(self) -> None:
        try:
            await self._transaction.commit()
        except CALL_ERRORS as exc:
            found = translate(exc, self._client.place)
            if isinstance(exc, asyncpg.PostgresError) and not isinstance(found, StoreUnavailable):
                # A constraint that is checked at the end, for example.
                said = f"{exc.sqlstate} {exc.args[0]}"
                raise InvalidState(f"the handler's transaction could not be committed: {said}") from exc
            raise lost(self._client.place, f"the connection was lost at the commit ({type(exc).__name__})") from exc

    async def _end(self) -> None:
        self._is_over = True
        await self._lender.release(self.connection)

    async def _cut(self) -> None:
        """Whatever is under way on it: the server takes it back."""
        self.connection.terminate()
        await self._end()
