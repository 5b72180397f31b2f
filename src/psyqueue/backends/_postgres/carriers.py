"""Ways to send one statement inside a transaction of the caller's own: asyncpg, psycopg 3, SQLAlchemy 2 over either.

None of them is imported here: who has such a connection has imported its library. A connection that blocks is used in a
thread, so that the loop goes on; it is the caller's again when the call returns, also when that was cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, TypeVar

from psyqueue.backends._postgres.schema import Style
from psyqueue.errors import InvalidOption, InvalidState

R = TypeVar("R")
StatementOf = Callable[[Style], str]

_CLOSED: Final = "the connection is closed. Open another one, and begin the transaction there"
_NO_TRANSACTION: Final = "the connection is in no transaction: begin one ({way_out})"
_FAILED: Final = "the transaction of the caller has failed before: roll it back, and begin another one"
_CANCEL_S: Final = 5.0
_STYLES: Final[dict[str, Style]] = {"numeric_dollar": "$", "pyformat": "%s"}
_OVER: Final = ("asyncpg", "psycopg")


class Carrier(Protocol):
    async def value(self, statement_of: StatementOf, args: tuple[Any, ...]) -> Any:
        """The one value that the statement returns.

        Raises InvalidState, InvalidOption for a connection that cannot be used so; else what its library raises.
        """
        ...


class _Asyncpg:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def value(self, statement_of: StatementOf, args: tuple[Any, ...]) -> Any:
        connection = self._connection
        if connection.is_closed():
            raise InvalidState(_CLOSED)
        if not connection.is_in_transaction():
            raise InvalidState(_NO_TRANSACTION.format(way_out="async with connection.transaction():"))
        return await connection.fetchval(statement_of("$"), *args)


class _AsyncPsycopg:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def value(self, statement_of: StatementOf, args: tuple[Any, ...]) -> Any:
        psycopg = sys.modules["psycopg"]
        _check_psycopg(self._connection, "async with connection.transaction():")
        # A cursor of psycopg's own kind: the caller's may mark parameters and make rows in ways of its own.
        cursor = psycopg.AsyncCursor(self._connection, row_factory=psycopg.rows.tuple_row)
        async with cursor:
            await cursor.execute(statement_of("%s"), args)
            return (await cursor.fetchone())[0]


class _Psycopg:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def value(self, statement_of: StatementOf, args: tuple[Any, ...]) -> Any:
        _check_psycopg(self._connection, "with connection.transaction():")
        return await _in_thread(lambda: self._send(statement_of("%s"), args), self._connection.cancel)

    def _send(self, statement: str, args: tuple[Any, ...]) -> Any:
        psycopg = sys.modules["psycopg"]
        with psycopg.Cursor(self._connection, row_factory=psycopg.rows.tuple_row) as cursor:
            return cursor.execute(statement, args).fetchone()[0]


class _Alchemy:
    """A Connection, a Session, or a registry of sessions. SQLAlchemy begins a transaction by itself."""

    def __init__(self, given: Any) -> None:
        self._given = given

    async def value(self, statement_of: StatementOf, args: tuple[Any, ...]) -> Any:
        # A registry hands out another session in another thread.
        given = self._given() if hasattr(self._given, "registry") else self._given
        used: list[Any] = []

        def send() -> Any:
            connection = given.connection() if hasattr(given, "get_bind") else given
            used.append(connection)
            return _send_by_alchemy(connection, statement_of, args)

        def cancel() -> None:
            if used:
                used[0].connection.driver_connection.cancel()

        return await _in_thread(send, cancel)


class _AsyncAlchemy:
    """An AsyncConnection, an AsyncSession, or a registry of these."""

    def __init__(self, given: Any) -> None:
        self._given = given

    async def value(self, statement_of: StatementOf, args: tuple[Any, ...]) -> Any:
        given = self._given() if hasattr(self._given, "registry") else self._given
        connection = await given.connection() if hasattr(given, "get_bind") else given
        return await connection.run_sync(_send_by_alchemy, statement_of, args)


def _check_psycopg(connection: Any, way_out: str) -> None:
    """What the library knows without asking the server."""
    if connection.closed:
        raise InvalidState(_CLOSED)
    status = connection.info.transaction_status.name
    if status == "INERROR":
        raise InvalidState(_FAILED)
    if connection.autocommit and status != "INTRANS":
        raise InvalidState(_NO_TRANSACTION.format(way_out=f"{way_out}, or leave autocommit out"))


def _send_by_alchemy(connection: Any, statement_of: StatementOf, args: tuple[Any, ...]) -> Any:
    dialect = connection.dialect
    if dialect.name != "postgresql" or dialect.driver not in _OVER:
        problem = f"is one of SQLAlchemy over {dialect.name}+{dialect.driver}"
        raise InvalidOption("conn", connection, problem, "Use postgresql+asyncpg or postgresql+psycopg")
    if connection.connection.dbapi_connection.autocommit:
        raise InvalidState(_NO_TRANSACTION.format(way_out="leave isolation_level='AUTOCOMMIT' out"))
    statement = statement_of(_STYLES[dialect.paramstyle])
    return connection.exec_driver_sql(statement, args).scalar_one()


async def _in_thread(call: Callable[[], R], cancel: Callable[[], None]) -> R:
    context = contextvars.copy_context()
    sent = asyncio.get_running_loop().run_in_executor(None, context.run, call)
    try:
        return await asyncio.shield(sent)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            cancel()
        # The thread has the connection until it is done; a server that is gone must not keep the caller.
        until = sent.get_loop().time() + _CANCEL_S
        while not sent.done() and (left_s := until - sent.get_loop().time()) > 0:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((sent,), timeout=left_s)
        sent.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


_KINDS: Final[tuple[tuple[str, str, Callable[[Any], Carrier]], ...]] = (
    ("asyncpg.connection", "Connection", _Asyncpg),
    ("asyncpg.pool", "PoolConnectionProxy", _Asyncpg),
    ("psycopg", "Connection", _Psycopg),
    ("psycopg", "AsyncConnection", _AsyncPsycopg),
    ("sqlalchemy.engine", "Connection", _Alchemy),
    ("sqlalchemy.orm", "Session", _Alchemy),
    ("sqlalchemy.orm", "scoped_session", _Alchemy),
    ("sqlalchemy.ext.asyncio", "AsyncConnection", _AsyncAlchemy),
    ("sqlalchemy.ext.asyncio", "AsyncSession", _AsyncAlchemy),
    ("sqlalchemy.ext.asyncio", "async_scoped_session", _AsyncAlchemy),
)
KINDS: Final = tuple(f"{module}.{name}" for module, name, _ in _KINDS)
_ERRORS: Final = (
    ("asyncpg", ("PostgresError", "InterfaceError", "InternalClientError")),
    ("psycopg", ("Error",)),
    ("sqlalchemy.exc", ("SQLAlchemyError",)),
)


def carrier_of(connection: object) -> Carrier | None:
    for module, name, make in _KINDS:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(connection, kind):
            return make(connection)
    return None


def errors() -> tuple[type[BaseException], ...]:
    """What a carrier can raise, of the libraries that are there."""
    found = [getattr(sys.modules.get(module), name, None) for module, names in _ERRORS for name in names]
    return (OSError, UnicodeEncodeError, *(kind for kind in found if isinstance(kind, type)))


def causes(exc: BaseException) -> Iterator[BaseException]:
    """The error, and what it wraps: SQLAlchemy keeps that of its library in `orig`."""
    seen: BaseException | None = exc
    while seen is not None:
        yield seen
        seen = getattr(seen, "orig", None) or seen.__cause__
