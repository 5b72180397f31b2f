"""Connections to share: the one used last is handed out first, and nothing is sent when one is given back.

asyncpg's own pool resets a session at each release, a round trip that undoes what we never do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

Connection = Any
_CLOSE_S = 2.0


class Lender(Protocol):
    async def acquire(self) -> Connection: ...

    async def release(self, connection: Connection) -> None: ...

    async def close(self) -> None: ...


class Pool:
    """At most `size` connections, made when they are needed."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], size: int) -> None:
        self._connect = connect
        self._left = size
        self._idle: list[Connection] = []
        self._lent: set[Connection] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._all_back = asyncio.Event()
        self._is_closed = False

    async def acquire(self) -> Connection:
        """Raises what `connect` raises. Who comes first is served first."""
        while not self._idle and not self._left:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next()
                raise
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                self._lent.add(connection)
                return connection
            self._left += 1
        self._left -= 1
        try:
            connection = await self._connect()
        except BaseException:
            self._left += 1
            self._next()
            raise
        self._lent.add(connection)
        return connection

    async def release(self, connection: Connection) -> None:
        self._lent.discard(connection)
        if not self._lent:
            self._all_back.set()
        if connection.is_closed() or self._is_closed:
            self._left += 1
            if not connection.is_closed():
                await _close(connection)
        else:
            self._idle.append(connection)
        self._next()

    async def close(self) -> None:
        """Idle ones at once, the others when they come back: what was accepted is finished first."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        self._left += len(idle)
        for connection in idle:
            await _close(connection)
        if self._lent:
            self._all_back.clear()
            await self._all_back.wait()

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


class OwnPool:
    """The caller's asyncpg.Pool, which he closes."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def acquire(self) -> Connection:
        return await self._pool.acquire()

    async def release(self, connection: Connection) -> None:
        await self._pool.release(connection)

    async def close(self) -> None:
        """It is not ours."""


async def _close(connection: Connection) -> None:
    with contextlib.suppress(Exception):
        await connection.close(timeout=_CLOSE_S)
