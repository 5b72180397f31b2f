"""A TLS end in front of a PostgreSQL that has none: it answers the client's SSLRequest, and hands the rest on."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

from support.kernel import next_turn
from support.servers import Server

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_READ_BYTES = 65_536


class TlsFront:
    """`url` names localhost. `greeted` counts clients that ended the handshake, `plain` those that began without."""

    def __init__(self, server: Server, context: ssl.SSLContext) -> None:
        self.url = ""
        self.greeted = 0
        self.plain = 0
        self._behind = urlsplit(server.url)
        self._context = context
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        # Of a handshake that failed the writer may have neither this transport nor one of TLS to close.
        raw = writer.transport
        try:
            first = await reader.readexactly(len(_SSL_REQUEST))
            if first == _SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(self._context)
                self.greeted += 1
                first = b""
            else:
                self.plain += 1
            await self._hand_on(first, reader, writer)
        except (OSError, EOFError):
            pass
        finally:
            raw.abort()
            writer.transport.abort()
            self._tasks.discard(task)

    async def _hand_on(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, to_server = await asyncio.open_connection(self._behind.hostname, self._behind.port)
        self._writers.add(to_server)
        to_server.write(first)
        await asyncio.gather(_pump(reader, to_server), _pump(back, writer))

    async def _close(self) -> None:
        await next_turn()  # whoever was let in last begins
        for writer in self._writers:
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10)
        await next_turn()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_READ_BYTES):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


@contextlib.asynccontextmanager
async def tls_before(server: Server, cert: Path, key: Path) -> AsyncIterator[TlsFront]:
    """Listens on localhost, at a port of its own; at the end every connection is cut."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    front = TlsFront(server, context)
    listener = await asyncio.start_server(front._serve, "localhost", 0)
    port = listener.sockets[0].getsockname()[1]
    behind = urlsplit(server.url)
    front.url = behind._replace(netloc=f"{behind.username}@localhost:{port}").geturl()
    try:
        yield front
    finally:
        listener.close()
        await front._close()
