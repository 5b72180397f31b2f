"""Verbs inside a transaction of the caller's own, on the caller's own asyncpg connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from psyqueue.backend import NO_EFFECTS, AnyOutcome, Effects, Enqueued, NewJob, Settled
from psyqueue.backend.bounds import check_jobs, check_outcomes
from psyqueue.backends._postgres import decoding
from psyqueue.backends._postgres.encoding import Outcomes, intake_of
from psyqueue.backends._postgres.faults import CALL_ERRORS, translate
from psyqueue.errors import InvalidOption, InvalidState

if TYPE_CHECKING:
    from psyqueue.backends._postgres.client import Client

BINDS: Final = ("asyncpg.connection.Connection", "asyncpg.pool.PoolConnectionProxy")
_NO_OP: Final = (None, None, None)


class PostgresBound:
    """Never commits. A savepoint keeps the caller's transaction usable when a call is refused."""

    def __init__(self, client: Client, place: str, connection: Any) -> None:
        self._client = client
        self._place = place
        self._connection = connection

    async def enqueue(self, jobs: Sequence[NewJob], effects: Effects = NO_EFFECTS) -> tuple[Enqueued, ...]:
        check_jobs(jobs, effects)
        rows = await self._rows("enqueue", *intake_of(jobs, effects))
        return decoding.enqueued_of(rows[0][0], jobs)

    async def settle(self, session_id: str, outcomes: Sequence[AnyOutcome]) -> tuple[Settled, ...]:
        check_outcomes(outcomes, None)
        sent = Outcomes(outcomes)
        rows = await self._rows("settle", session_id, *sent.arguments, None, 0, None, 0)
        return decoding.settled_of(rows, outcomes, sent, "").settled

    async def _rows(self, name: str, *args: Any) -> Sequence[Any]:
        connection = self._connection
        if not connection.is_in_transaction():
            raise InvalidState("the connection is in no transaction: begin one, 'async with conn.transaction():'")
        try:
            async with connection.transaction():
                await self._check_store()
                found: Sequence[Any] = await connection.fetch(self._client.statement(name), *_NO_OP, *args)
                return found
        except CALL_ERRORS as exc:
            raise translate(exc, self._place) from exc

    async def _check_store(self) -> None:
        try:
            (row,) = await self._connection.fetch(self._client.statement("info"))
        except (asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError) as exc:
            raise self._foreign() from exc
        if row[5] != self._client.store_id:
            raise self._foreign()

    def _foreign(self) -> InvalidOption:
        return InvalidOption("conn", self._connection, f"is not open on the database of the store ({self._place})")


def bind(client: Client, place: str, connection: object) -> PostgresBound:
    """Raises InvalidOption."""
    if not isinstance(connection, asyncpg.Connection | PoolConnectionProxy):
        raise InvalidOption("conn", connection, f"is none of {', '.join(BINDS)}")
    return PostgresBound(client, place, connection)
