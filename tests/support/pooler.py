"""A pooler in transaction mode: each transaction of a client gets another server connection out of a few.

It speaks just enough of PostgreSQL's protocol: what ReadyForQuery says of a session decides when it is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from collections import deque
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from support.servers import Server

_SSL_REQUEST, _GSS_REQUEST, _CANCEL_REQUEST = 80_877_103, 80_877_104, 80_877_102
_HEAD = struct.Struct("!cI")


class _Session:
    """One connection to the server, logged in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.key = b""


class Pooler:
    """At `url`, before one server. `swaps`: how often a client went on in another session than before."""

    def __init__(self, server: Server, size: int) -> None:
        self._behind = urlsplit(server.url)
        self._size = size
        self._free: deque[_Session] = deque()
        self._all: list[_Session] = []
        self._given_back = asyncio.Condition()
        self._greeting = b""
        self._tasks: set[asyncio.Task[None]] = set()
        self._keys = itertools.count(1)
        self._running: dict[bytes, _Session] = {}
        self.url = ""
        self.swaps = 0

    async def _open(self, startup: bytes) -> _Session:
        """Log in as the client would: without a password."""
        reader, writer = await asyncio.open_connection(self._behind.hostname, self._behind.port)
        session = _Session(reader, writer)
        writer.write(startup)
        greeting = b""
        while True:
            kind, message = await _message(reader)
            if kind == b"E":
                raise EOFError(message)
            if kind == b"K":
                session.key = message[5:]
                continue
            greeting += message
            if kind == b"Z":
                self._greeting = greeting
                self._all.append(session)
                return session

    async def _borrow(self, startup: bytes) -> _Session:
        """The one that rests longest: rarely the same again."""
        async with self._given_back:
            while not self._free and len(self._all) >= self._size:
                await self._given_back.wait()
            if len(self._all) < self._size:
                return await self._open(startup)
            return self._free.popleft()

    async def _give_back(self, session: _Session) -> None:
        async with self._given_back:
            self._free.append(session)
            self._given_back.notify()

    async def _drop(self, session: _Session) -> None:
        """Its client left in the middle: the server takes back what was not committed."""
        session.writer.transport.abort()
        async with self._given_back:
            self._all.remove(session)
            self._given_back.notify()

    # ── clients ───────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(EOFError, OSError):
                await self._client(reader, writer)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readexactly(8)
            length, code = struct.unpack("!II", head)
            rest = await reader.readexactly(length - 8)
            if code == _CANCEL_REQUEST:
                await self._cancel(rest)
                return
            if code not in (_SSL_REQUEST, _GSS_REQUEST):
                break
            writer.write(b"N")
        startup = head + rest
        if not self._greeting:
            await self._give_back(await self._borrow(startup))
        key = struct.pack("!II", next(self._keys), 0)
        before, _, ready = self._greeting.rpartition(b"Z\0\0\0\x05")
        writer.write(before + b"K" + struct.pack("!I", 12) + key + b"Z\0\0\0\x05" + ready)
        await self._transactions(reader, writer, startup, key)

    async def _transactions(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, startup: bytes, key: bytes
    ) -> None:
        last = None
        while True:
            kind, message = await _message(reader)
            if kind == b"X":
                return
            session = await self._borrow(startup)
            self.swaps += last is not None and session is not last
            last, self._running[key] = session, session
            is_idle = False
            try:
                session.writer.write(message)
                await self._transaction(reader, writer, session)
                is_idle = True
            finally:
                del self._running[key]
                await (self._give_back(session) if is_idle else self._drop(session))

    async def _transaction(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: _Session) -> None:
        """Both ways, until the server says that it is idle."""

        async def requests() -> None:
            while True:
                kind, message = await _message(reader)
                if kind == b"X":
                    raise EOFError
                session.writer.write(message)

        asking = asyncio.ensure_future(requests())
        try:
            while True:
                replying = asyncio.ensure_future(_message(session.reader))
                await asyncio.wait({asking, replying}, return_when=asyncio.FIRST_COMPLETED)
                if asking.done():
                    replying.cancel()
                    await asking
                kind, message = await replying
                writer.write(message)
                if kind == b"Z" and message[5:] == b"I":
                    return
        finally:
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError, EOFError, OSError):
                await asking

    async def _cancel(self, key: bytes) -> None:
        session = self._running.get(key)
        if session is None:
            return
        _, writer = await asyncio.open_connection(self._behind.hostname, self._behind.port)
        writer.write(struct.pack("!II", 16, _CANCEL_REQUEST) + session.key)
        await writer.drain()
        writer.close()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """(its kind, all of it)"""
    head = await reader.readexactly(_HEAD.size)
    kind, length = _HEAD.unpack(head)
    return kind, head + await reader.readexactly(length - 4)


@contextlib.asynccontextmanager
async def pooler_before(server: Server, *, size: int = 3) -> AsyncIterator[Pooler]:
    """Listens on a port of its own; at the end every connection is cut."""
    pooler = Pooler(server, size)
    front = await asyncio.start_server(pooler._serve, "127.0.0.1", 0)
    user, at, _ = pooler._behind.netloc.rpartition("@")
    pooler.url = pooler._behind._replace(netloc=f"{user}{at}127.0.0.1:{front.sockets[0].getsockname()[1]}").geturl()
    try:
        yield pooler
    finally:
        front.close()
        for task in tuple(pooler._tasks):
            task.cancel()
        if pooler._tasks:
            await asyncio.wait(pooler._tasks, timeout=10)
        for session in pooler._all:
            session.writer.transport.abort()
