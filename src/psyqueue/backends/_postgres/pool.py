"""Connections to share: the one used last is handed out first, and nothing is sent when one is given back.

asyncpg's own pool resets a session at each release, a round trip that undoes what we never do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from psyqueue.backends._postgres.faults import CALL_ERRORS, exhausted, unreachable

Connection = Any
_CLOSE_S = 2.0


class Lender(Protocol):
    async def acquire(self) -> Connection:
        """Raises StoreError: nothing was sent."""
        ...

    async def release(self, connection: Connection) -> None: ...

    async def close(self) -> None: ...


class Pool:
    """At most `size` connections, made when they are needed. Who waits for one for longer than `wait_s` is told."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], size: int, wait_s: float, place: str) -> None:
        self._connect = connect
        self._size = self._left = size
        self._wait_s = wait_s
        self._place = place
        self._idle: list[Connection] = []
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        """They get a connection, or None: the right to make one."""
        self._users = 0
        self._all_back = asyncio.Event()
        self._is_closed = False

    async def acquire(self) -> Connection:
        """Who comes first is served first: what comes back is handed to him, and nobody can be quicker."""
        self._users += 1
        self._all_back.clear()
        try:
            connection = self._rested()
            if connection is None and not self._left:
                connection = await self._turn()
            elif connection is None:
                self._left -= 1
            if connection is not None and not connection.is_closed():
                return connection
        except BaseException:
            self._leave()
            raise
        try:
            return await self._connect()
        except BaseException:
            self._pass_on(None)
            self._leave()
            raise

    def _rested(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
            self._left += 1
        return None

    async def _turn(self) -> Connection | None:
        turn: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._wait_s):
                return await turn
        except BaseException as exc:
            if turn.done() and not turn.cancelled():
                self._pass_on(turn.result())
            if isinstance(exc, TimeoutError):
                raise exhausted(self._place, self._size, self._wait_s) from exc
            raise

    async def release(self, connection: Connection) -> None:
        if connection.is_closed():
            self._pass_on(None)
        elif self._is_closed and not self._is_awaited():
            self._left += 1
            await _close(connection)
        else:
            self._pass_on(connection)
        self._leave()

    async def close(self) -> None:
        """Idle ones at once, the others when they come back: what was accepted is finished first."""
        await self._close_idle()
        while self._users:
            await self._all_back.wait()

    async def _close_idle(self) -> None:
        self._is_closed = True
        idle, self._idle = self._idle, []
        self._left += len(idle)
        for connection in idle:
            await _close(connection)

    def _is_awaited(self) -> bool:
        return any(not turn.done() for turn in self._waiting)

    def _pass_on(self, connection: Connection | None) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        if connection is None:
            self._left += 1
        else:
            self._idle.append(connection)

    def _leave(self) -> None:
        self._users -= 1
        if not self._users:
            self._all_back.set()


class UserPool(Pool):
    """For connections that somebody else's code works on: what it set is undone before the next one gets them.

    `close` waits for nobody: those that are out are cut, and their transactions with them.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], size: int, wait_s: float, place: str) -> None:
        super().__init__(connect, size, wait_s, place)
        self._lent: set[Connection] = set()

    async def acquire(self) -> Connection:
        connection = await super().acquire()
        self._lent.add(connection)
        return connection

    async def release(self, connection: Connection) -> None:
        self._lent.discard(connection)
        try:
            if not connection.is_closed():
                await connection.reset(timeout=_CLOSE_S)
        except BaseException as exc:
            connection.terminate()
            if not isinstance(exc, Exception):
                raise
        finally:
            await super().release(connection)

    async def close(self) -> None:
        for connection in self._lent:
            connection.terminate()
        await self._close_idle()


class OwnPool:
    """The caller's asyncpg.Pool, which he closes."""

    def __init__(self, pool: Any, wait_s: float, place: str) -> None:
        self._pool = pool
        self._wait_s = wait_s
        self._place = place

    async def acquire(self) -> Connection:
        try:
            return await self._pool.acquire(timeout=self._wait_s)
        except TimeoutError as exc:
            raise exhausted(self._place, self._pool.get_max_size(), self._wait_s) from exc
        except CALL_ERRORS as exc:
            raise unreachable(exc, self._place) from exc

    async def release(self, connection: Connection) -> None:
        # It resets the session. Should that fail, the pool drops the connection; our reply is there already.
        with contextlib.suppress(*CALL_ERRORS):
            await self._pool.release(connection)

    async def close(self) -> None:
        """It is not ours."""


async def _close(connection: Connection) -> None:
    with contextlib.suppress(Exception):
        await connection.close(timeout=_CLOSE_S)
