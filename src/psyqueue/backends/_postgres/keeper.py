"""The lease thread's own way to the server: renewals do not pass through the event loop of the handlers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

from psyqueue.backend import Renewal
from psyqueue.backend.failpoints import failpoint
from psyqueue.backends._postgres import decoding
from psyqueue.backends._postgres.connecting import connect
from psyqueue.backends._postgres.faults import CALL_ERRORS, translate
from psyqueue.backends._postgres.options import PostgresOptions
from psyqueue.errors import PsyQueueError, StoreUnavailable

_CLOSE_S = 1.0
_REPLY_S = 5.0
"""A call may wait for longer; a lease may not: there has to be time for another try, over another connection."""


class Keeper:
    """One connection with a loop of its own, made at once, and again after a loss.

    At once, in a thread that ends with it: by the first renewal the server may have none left to give. `close` may come
    from another thread.
    """

    def __init__(self, options: PostgresOptions, statement: str) -> None:
        self._options = options
        self._limit_s = min(_REPLY_S, options.statement_timeout_ms / 1000)
        self._statement = statement
        self._mutex = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Any = None
        self._is_closed = False
        threading.Thread(target=self._reserve, name="psyqueue-postgres-keeper", daemon=True).start()

    def _reserve(self) -> None:
        with self._mutex, contextlib.suppress(PsyQueueError):  # a renewal that fails, too, will tell
            if not self._is_closed:
                self._own_loop().run_until_complete(self._connected())

    def renew(self, session_id: str) -> Renewal:
        """Extend the lease to now + lease. Raises StoreError; the caller tries again until it knows."""
        with self._mutex:
            if self._is_closed:
                raise StoreUnavailable("the keeper is closed", outcome="refused")
            return self._own_loop().run_until_complete(self._renew(session_id))

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop

    async def _connected(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._options)
        return self._connection

    async def _renew(self, session_id: str) -> Renewal:
        place = self._options.place
        connection = await self._connected()
        try:
            failpoint("postgres.renew.before")
            reply = await connection.fetchval(self._statement, session_id, timeout=self._limit_s)
            failpoint("postgres.renew.after")
            return decoding.renewal_of(reply)
        except CALL_ERRORS as exc:
            self._connection = None
            connection.terminate()
            raise translate(exc, place) from exc

    def close(self) -> None:
        with self._mutex:
            self._is_closed = True
            loop, connection, self._loop, self._connection = self._loop, self._connection, None, None
            if loop is None:
                return
            try:
                if connection is not None and not connection.is_closed():
                    loop.run_until_complete(_leave(connection))
            finally:
                loop.close()


async def _leave(connection: Any) -> None:
    try:
        await connection.close(timeout=_CLOSE_S)
    except CALL_ERRORS:
        connection.terminate()
