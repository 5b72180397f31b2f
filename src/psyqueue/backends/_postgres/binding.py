"""Verbs inside a transaction of the caller's own, on the caller's own connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from psyqueue.backend import NO_EFFECTS, AnyOutcome, Effects, Enqueued, NewJob, Settled
from psyqueue.backend.bounds import check_jobs, check_outcomes
from psyqueue.backends._postgres import carriers, decoding
from psyqueue.backends._postgres.encoding import Outcomes, intake_of
from psyqueue.backends._postgres.faults import of_caller, of_callers_server
from psyqueue.errors import InvalidOption

if TYPE_CHECKING:
    from psyqueue.backends._postgres.client import Client

BINDS: Final = carriers.KINDS


class _NotDone(msgspec.Struct):
    """What a call says that was not done: its error, or whose store it met."""

    error: tuple[str, str, str | None] | None = None
    elsewhere: str | None = None


_decode_not_done = msgspec.json.Decoder(_NotDone).decode


class PostgresBound:
    """Never commits. What a refused call did is taken back, and the caller's transaction goes on.

    One round trip a call. `idle_ms`: see includes/binding.sql.
    """

    def __init__(self, client: Client, connection: object, carrier: carriers.Carrier) -> None:
        self._client = client
        self._connection = connection
        self._carrier = carrier

    async def enqueue(self, jobs: Sequence[NewJob], effects: Effects = NO_EFFECTS) -> tuple[Enqueued, ...]:
        check_jobs(jobs, effects)
        return decoding.enqueued_of(await self._call("enqueue_bound", *intake_of(jobs, effects)), jobs)

    async def settle(
        self, session_id: str, outcomes: Sequence[AnyOutcome], *, idle_ms: int | None = None
    ) -> tuple[Settled, ...]:
        check_outcomes(outcomes, None)
        sent = Outcomes(outcomes)
        reply = await self._call("settle_bound", session_id, *sent.arguments, idle_ms)
        return decoding.settled_of([(reply,)], outcomes, sent, "")[0].settled

    async def _call(self, name: str, *args: Any) -> str:
        known = await self._client.identity()
        reply = await self._send(name, known, *args)
        if reply.startswith('{"elsewhere"'):
            # The server may have been started anew since we looked.
            now = await self._client.identity(anew=True)
            if now != known and now == _decode_not_done(reply.encode()).elsewhere:
                reply = await self._send(name, now, *args)
        if not reply.startswith(('{"elsewhere"', '{"error"')):
            return reply
        found = _decode_not_done(reply.encode())
        if found.error is None:
            raise self._foreign()
        raise of_callers_server(*found.error, self._client.place)

    async def _send(self, name: str, *args: Any) -> str:
        schema, functions = self._client.schema, self._client.release.functions
        try:
            return str(await self._carrier.value(lambda style: functions.plain_call(name, schema, style), args))
        except carriers.errors() as exc:
            # Its schema, or the function in it, is not there.
            if any(getattr(each, "sqlstate", None) in ("3F000", "42883") for each in carriers.causes(exc)):
                raise self._foreign() from exc
            raise of_caller(exc, self._client.place) from exc

    def _foreign(self) -> InvalidOption:
        problem = f"is not open on the database of the store ({self._client.place})"
        return InvalidOption("conn", self._connection, problem, "Nothing was written: roll back")


def bind(client: Client, connection: object) -> PostgresBound:
    """Raises InvalidOption."""
    carrier = carriers.carrier_of(connection)
    if carrier is None:
        way_out = (
            "Give a connection of asyncpg or psycopg 3 (of Django connection.connection, inside atomic()), "
            "or a Connection or Session of SQLAlchemy 2"
        )
        raise InvalidOption("conn", connection, "is no connection that a job could be enqueued on", way_out)
    return PostgresBound(client, connection, carrier)
