"""Links to test servers, and a TLS end in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from psyqueue.backends._redis.address import Address
from psyqueue.backends._redis.link import Link
from psyqueue.backends._redis.options import RedisOptions
from support.servers import Server

LIMIT_S = 20


def address_of(server: Server, **changes: Any) -> Address:
    return replace(RedisOptions(url=server.url).address, **changes)


@contextlib.asynccontextmanager
async def linked(server: Server, **changes: Any) -> AsyncIterator[Link]:
    link = Link(address_of(server, **changes))
    try:
        yield link
    finally:
        await link.close()


async def outcomes(*calls: Awaitable[Any]) -> list[Any]:
    """Replies and errors, in order."""
    return list(await asyncio.gather(*calls, return_exceptions=True))


async def until(is_true: Callable[[], bool]) -> None:
    """Turn the loop until it is; what arrives from servers arrives meanwhile."""
    async with asyncio.timeout(LIMIT_S):
        while not is_true():
            await asyncio.sleep(0)


async def until_reply(link: Link, is_it: Callable[[Any], bool], *command: Any) -> Any:
    """Ask the server until it says so."""
    async with asyncio.timeout(LIMIT_S):
        while not is_it(reply := await link.call(*command)):
            pass
    return reply


@contextlib.asynccontextmanager
async def tls_in_front_of(server: Server, cert: Path, key: Path) -> AsyncIterator[int]:
    """The port of a TLS end that hands everything on to the server, whether that knows TLS or not."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    behind = address_of(server)
    writers: list[asyncio.StreamWriter] = []
    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.get_running_loop().create_task(hand_on(reader, writer)))

    async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection(behind.host, behind.port)
        writers.extend((writer, other_writer))
        await asyncio.gather(_pump(reader, other_writer), _pump(other_reader, writer))

    front = await asyncio.start_server(serve, "localhost", 0, ssl=context)
    try:
        yield front.sockets[0].getsockname()[1]
    finally:
        front.close()
        for writer in writers:
            writer.close()
        if served:
            await asyncio.wait(served)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()
