"""Applications with a connection of their own, in each of the ways that `conn=` takes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

import asyncpg
import psycopg
import sqlalchemy as sa
import sqlalchemy.ext.asyncio as sa_async
from psycopg.rows import dict_row
from sqlalchemy.orm import Session, scoped_session, sessionmaker


class Caller(Protocol):
    """In a transaction, which has done nothing yet. `given` is what `conn=` gets."""

    given: Any

    async def run(self, statement: str) -> None:
        """A statement of the application's own."""
        ...

    async def commit(self) -> None: ...

    async def rollback(self) -> None: ...


class _Asyncpg:
    def __init__(self, connection: Any, isolation: Any) -> None:
        self.given = connection
        self._transaction = connection.transaction(isolation=isolation)

    async def begin(self) -> None:
        await self._transaction.start()

    async def run(self, statement: str) -> None:
        await self.given.execute(statement)

    async def commit(self) -> None:
        await self._transaction.commit()

    async def rollback(self) -> None:
        await self._transaction.rollback()


class _Awaited:
    """psycopg's AsyncConnection, and what SQLAlchemy has of that kind. `prepare` makes a statement of a text."""

    def __init__(self, connection: Any, prepare: Callable[[str], Any] = str) -> None:
        self.given = connection
        self._prepare = prepare

    async def run(self, statement: str) -> None:
        await self.given.execute(self._prepare(statement))

    async def commit(self) -> None:
        await self.given.commit()

    async def rollback(self) -> None:
        await self.given.rollback()


class _Blocking:
    """psycopg's Connection, and what SQLAlchemy has of that kind."""

    def __init__(self, connection: Any, prepare: Callable[[str], Any] = str) -> None:
        self.given = connection
        self._prepare = prepare

    async def run(self, statement: str) -> None:
        self.given.execute(self._prepare(statement))

    async def commit(self) -> None:
        self.given.commit()

    async def rollback(self) -> None:
        self.given.rollback()


LEVELS = {None: None, "read_committed": 2, "repeatable_read": 3, "serializable": 4}
"""Names as asyncpg has them, numbers as psycopg has them."""


@asynccontextmanager
async def by_asyncpg(url: str, isolation: str | None = None) -> AsyncIterator[Caller]:
    connection = await asyncpg.connect(url)
    try:
        caller = _Asyncpg(connection, isolation)
        await caller.begin()
        yield caller
    finally:
        await connection.close()


@asynccontextmanager
async def by_asyncpg_pool(url: str, isolation: str | None = None) -> AsyncIterator[Caller]:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        connection = await pool.acquire()
        try:
            caller = _Asyncpg(connection, isolation)
            await caller.begin()
            yield caller
        finally:
            await pool.release(connection)


@asynccontextmanager
async def by_psycopg(url: str, isolation: str | None = None) -> AsyncIterator[Caller]:
    """With rows and cursors of the caller's taste, which must not matter."""
    with psycopg.connect(url, row_factory=dict_row, cursor_factory=psycopg.RawCursor) as connection:
        connection.isolation_level = LEVELS[isolation]  # type: ignore[assignment]
        yield _Blocking(connection)
        connection.rollback()


@asynccontextmanager
async def by_psycopg_async(url: str, isolation: str | None = None) -> AsyncIterator[Caller]:
    async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as connection:
        await connection.set_isolation_level(LEVELS[isolation])  # type: ignore[arg-type]
        yield _Awaited(connection)
        await connection.rollback()


def _settings(url: str, library: str, isolation: str | None) -> dict[str, Any]:
    level = {} if isolation is None else {"isolation_level": isolation.replace("_", " ").upper()}
    return {"url": url.replace("postgresql:", f"postgresql+{library}:"), "poolclass": sa.NullPool, **level}


def _engine(url: str, isolation: str | None) -> sa.Engine:
    return sa.create_engine(**_settings(url, "psycopg", isolation))


@asynccontextmanager
async def by_alchemy(url: str, isolation: str | None = None) -> AsyncIterator[Caller]:
    with _engine(url, isolation).connect() as connection:
        yield _Blocking(connection, sa.text)


@asynccontextmanager
async def by_session(url: str, isolation: str | None = None) -> AsyncIterator[Caller]:
    with Session(_engine(url, isolation)) as session:
        yield _Blocking(session, sa.text)


@asynccontextmanager
async def by_session_registry(url: str, isolation: str | None = None) -> AsyncIterator[Caller]:
    """A session for each thread: that of this one is meant, although a blocking call is made in another."""
    registry = scoped_session(sessionmaker(_engine(url, isolation)))
    try:
        yield _Blocking(registry, sa.text)
    finally:
        registry.remove()


def _async(library: str, *, is_session: bool) -> Callable[..., AbstractAsyncContextManager[Caller]]:
    @asynccontextmanager
    async def by(url: str, isolation: str | None = None) -> AsyncIterator[Caller]:
        engine = sa_async.create_async_engine(**_settings(url, library, isolation))
        async with AsyncExitStack() as stack:
            made: Any = sa_async.AsyncSession(engine) if is_session else engine.connect()
            yield _Awaited(await stack.enter_async_context(made), sa.text)

    return by


CALLERS: dict[str, Callable[..., AbstractAsyncContextManager[Caller]]] = {
    "asyncpg": by_asyncpg,
    "asyncpg-pool": by_asyncpg_pool,
    "psycopg": by_psycopg,
    "psycopg-async": by_psycopg_async,
    "sqlalchemy-connection": by_alchemy,
    "sqlalchemy-session": by_session,
    "sqlalchemy-scoped-session": by_session_registry,
    "sqlalchemy-async-connection-asyncpg": _async("asyncpg", is_session=False),
    "sqlalchemy-async-session-asyncpg": _async("asyncpg", is_session=True),
    "sqlalchemy-async-session-psycopg": _async("psycopg", is_session=True),
}
