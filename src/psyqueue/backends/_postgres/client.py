"""One connected client: its connections, and how a function is called on them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from typing import Any, Final

from psyqueue.backend import Info, SessionKeeper
from psyqueue.backend.failpoints import failpoint
from psyqueue.backend.state_rules import TEST_EPOCH_MS
from psyqueue.backends._postgres import schema, upgrade
from psyqueue.backends._postgres.connecting import connect
from psyqueue.backends._postgres.facts import Facts, facts_of, require_usable, survives, warnings
from psyqueue.backends._postgres.faults import AGAIN, CALL_ERRORS, leaves_in_doubt, translate
from psyqueue.backends._postgres.keeper import Keeper
from psyqueue.backends._postgres.listening import Listening
from psyqueue.backends._postgres.options import PostgresOptions
from psyqueue.backends._postgres.pool import Lender, OwnPool, Pool, UserPool
from psyqueue.backends._postgres.presence import Presence
from psyqueue.backends._postgres.schema import Release
from psyqueue.backends._postgres.transaction import PostgresTransaction
from psyqueue.errors import ForkedProcess, StoreUnavailable
from psyqueue.ids import new_token

_CANCEL_S: Final = 2.0
TRIES_MAX: Final = 20
"""A step that met a deadlock is taken back whole; who was in its way has gone on, so it is done again at once."""


class Client:
    """Connected between `connect` and `disconnect`, both idempotent."""

    def __init__(self, options: PostgresOptions, release: Release) -> None:
        self._options = options
        self._limit_s = options.statement_timeout_ms / 1000
        self.release = release
        self._presence: Presence | None = None
        self._lender: Lender | None = None
        self._for_handlers: Lender | None = None
        self._listening: Listening | None = None
        self._statements: dict[str, str] = {}
        self._process = os.getpid()
        self._connecting = asyncio.Lock()
        self._identity: str | None = None

    async def connect(self) -> None:
        """Two who come at once make one connection."""
        async with self._connecting:
            if self._lender is None:
                await self._connect()

    async def _connect(self) -> None:
        options = self._options
        lender = self._pool(Pool)
        self._process = os.getpid()
        try:
            connection = await lender.acquire()
            try:
                (row,) = await connection.fetch(schema.facts_frame())
                require_usable(facts_of(row), options)
                await upgrade.ensure(connection, options, self.release, TEST_EPOCH_MS)
            finally:
                await lender.release(connection)
        except CALL_ERRORS as exc:
            await lender.close()
            raise translate(exc, options.place) from exc
        except BaseException:
            await lender.close()
            raise
        self._lender = lender
        self._for_handlers = self._pool(UserPool)
        self._listening = Listening(options, self, new_token())
        self._presence = Presence(self._say_in_use)

    def _pool(self, kind: type[Pool]) -> Lender:
        options = self._options
        if options.pool is not None:
            return OwnPool(options.pool, self._limit_s, options.place)
        return kind(lambda: connect(options), options.max_size, self._limit_s, options.place)

    async def disconnect(self) -> None:
        lender, for_handlers, listening = self._lender, self._for_handlers, self._listening
        if lender is None or for_handlers is None or listening is None:
            return
        if self._presence is not None:
            await self._presence.close()
        await listening.close()
        self._lender = self._for_handlers = self._listening = None
        await for_handlers.close()
        await lender.close()

    # ── what is connected ─────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def listening(self) -> Listening:
        if self._listening is None:
            raise self._not_connected()
        return self._listening

    def keeper(self) -> SessionKeeper:
        if self._lender is None:
            raise self._not_connected()
        return Keeper(self._options, self.statement("renew"))

    async def begin(self) -> PostgresTransaction:
        """On a connection that no call of ours needs: handlers that wait for calls cannot take all of them."""
        if self._for_handlers is None:
            raise self._not_connected()
        return await PostgresTransaction.begin(self, self._for_handlers, self._options.statement_timeout_ms)

    async def rows(self, name: str, /, *args: Any) -> Sequence[Any]:
        """What the function returns. Raises Refused, StoreError."""
        if self._lender is None:
            raise self._not_connected()
        if os.getpid() != self._process:
            text = f"the connections to {self._options.place} were made before a fork. Make a new backend in the child"
            raise ForkedProcess(text)
        failpoint(f"postgres.{name}.before")
        reply = await self._tried(self._lender, self.statement(name), args)
        failpoint(f"postgres.{name}.after")
        return reply

    async def value(self, name: str, /, *args: Any) -> Any:
        """Of a function that returns one value."""
        return (await self.rows(name, *args))[0][0]

    async def _tried(self, lender: Lender, statement: str, args: tuple[Any, ...]) -> Sequence[Any]:
        connection = await lender.acquire()
        try:
            for _ in range(TRIES_MAX - 1):
                with contextlib.suppress(*AGAIN):
                    return await self._fetched(connection, statement, args)
            return await self._fetched(connection, statement, args)
        except BaseException as exc:
            if isinstance(exc, TimeoutError):
                # Not cut at once: its request to cancel the statement is on the way, and would be cut with it.
                with contextlib.suppress(*CALL_ERRORS):
                    await connection.close(timeout=_CANCEL_S)
            if leaves_in_doubt(exc):
                connection.terminate()
            if isinstance(exc, CALL_ERRORS):
                raise translate(exc, self._options.place) from exc
            raise
        finally:
            await lender.release(connection)

    async def _fetched(self, connection: Any, statement: str, args: tuple[Any, ...]) -> Sequence[Any]:
        # Said each time: a connection of the caller's own pool has another limit, or none.
        found: Sequence[Any] = await connection.fetch(statement, *args, timeout=self._limit_s)
        return found

    async def _say_in_use(self) -> None:
        if (lender := self._lender) is None:
            return
        connection = await lender.acquire()
        try:
            await upgrade.has_functions(connection, self._options, self.release, is_client=True)
        except CALL_ERRORS as exc:
            raise translate(exc, self._options.place) from exc
        finally:
            await lender.release(connection)

    def statement(self, name: str) -> str:
        found = self._statements.get(name)
        if found is None:
            found = self._statements[name] = self.release.functions.call(name, self._options.schema)
        return found

    @property
    def place(self) -> str:
        return self._options.place

    @property
    def schema(self) -> str:
        return self._options.schema

    async def identity(self, *, anew: bool = False) -> str:
        """Which store this is, and on which server: other after a restart of that."""
        if anew or self._identity is None:
            self._identity = str(await self.value("store_identity"))
        return self._identity

    async def info(self) -> Info:
        (row,) = await self.rows("info")
        facts = await self._facts()
        now_ms, mode, epoch, moved_to, number, _ = row
        return Info(
            store="postgres",
            version=facts.version,
            schema=number,
            now_ms=now_ms,
            mode=mode,
            epoch=epoch,
            moved_to=moved_to,
            process_crash="safe",
            **survives(facts),
            warnings=warnings(facts, self._options),
        )

    async def _facts(self) -> Facts:
        """Asked anew each time: an operator may have changed them since."""
        if self._lender is None:
            raise self._not_connected()
        (row,) = await self._tried(self._lender, schema.facts_frame(), ())
        return facts_of(row)

    def _not_connected(self) -> StoreUnavailable:
        return StoreUnavailable("the PostgreSQL store is not connected: call connect()", outcome="refused")
