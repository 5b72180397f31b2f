"""A network between client and server that loses replies, is slow, or swallows everything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

from support.servers import Server

_READ_BYTES = 65_536


class Proxy:
    """In front of one server, at `url`. What it does is set at any time and counts from the next bytes on.

    `loses_reply(request)`: the request is handed on; when its reply comes, the connection is cut instead. `delay_ms`:
    replies come later by that. `is_hole`: connections stay open, and no byte gets through either way.
    """

    def __init__(self, server: Server) -> None:
        self._behind = urlsplit(server.url)
        self.url = ""
        self.loses_reply: Callable[[bytes], bool] = lambda request: False
        self.delay_ms = 0.0
        self.is_hole = False
        self.cuts = 0
        """Replies that were lost."""
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut_all(self) -> None:
        """Every connection, at once."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            behind, to_server = await asyncio.open_connection(self._behind.hostname, self._behind.port)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, to_server}
        self._writers |= pair
        doomed = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(reader, to_server, doomed))
                group.create_task(self._replies(behind, writer, doomed))
        except* (OSError, EOFError):
            pass
        finally:
            self._writers -= pair
            for each in pair:
                each.transport.abort()
            self._tasks.discard(task)

    async def _requests(
        self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        while True:
            data = await _some(reader)
            if self.is_hole:
                continue
            if self.loses_reply(data):
                doomed.set()
            to_server.write(data)
            await to_server.drain()

    async def _replies(self, behind: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while True:
            data = await _some(behind)
            if doomed.is_set():
                self.cuts += 1
                raise EOFError
            if self.delay_ms:
                late = asyncio.Event()
                asyncio.get_running_loop().call_later(self.delay_ms / 1000, late.set)
                await late.wait()
            if not self.is_hole:
                writer.write(data)
                await writer.drain()


async def _some(reader: asyncio.StreamReader) -> bytes:
    data = await reader.read(_READ_BYTES)
    if not data:
        raise EOFError
    return data


@contextlib.asynccontextmanager
async def proxy_before(server: Server) -> AsyncIterator[Proxy]:
    """Listens on a port of its own; at the end every connection is cut."""
    proxy = Proxy(server)
    front = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
    user, at, _ = proxy._behind.netloc.rpartition("@")
    proxy.url = proxy._behind._replace(netloc=f"{user}{at}127.0.0.1:{front.sockets[0].getsockname()[1]}").geturl()
    try:
        yield proxy
    finally:
        front.close()
        proxy.cut_all()
        if proxy._tasks:
            await asyncio.wait(proxy._tasks, timeout=10)
