"""The transaction of a run: opened by the handler, committed with the ack when the run has succeeded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

from psyqueue.backend import Transaction
from psyqueue.errors import InvalidState

Begin: TypeAlias = Callable[[], Awaitable[Transaction]]
Transact: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]
WAY_OUT = "Let it be an 'async def' that runs in the worker"


class RunTransaction:
    """At most one at a time, and one that was left in peace stays open until the run ends."""

    __slots__ = ("_begin", "_is_entered", "_is_over", "_open")

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._open: Transaction | None = None
        self._is_entered = False
        self._is_over = False

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[Any]:
        """Raises InvalidState, StoreError. An error inside rolls back; then another one may be opened."""
        if self._open is not None or self._is_entered:
            raise InvalidState("a run has one transaction, and this one has opened it before. Use that connection")
        self._is_entered = True
        try:
            transaction = await self._begin()
            try:
                yield transaction.connection
            except BaseException:
                await transaction.rollback()
                raise
            if self._is_over:
                await transaction.rollback()
            else:
                self._open = transaction
        finally:
            self._is_entered = False

    def take(self) -> Transaction | None:
        """The one to commit or roll back, which is the caller's from here on. Raises InvalidState inside the block."""
        self._is_over = True
        if self._is_entered:
            raise InvalidState("the run ended inside its ctx.transaction(): await what works in there")
        transaction, self._open = self._open, None
        return transaction

    async def roll_back(self) -> None:
        """What was not taken. A block that is still open is rolled back by whoever is in it."""
        self._is_over = True
        transaction, self._open = self._open, None
        if transaction is not None:
            await transaction.rollback()
