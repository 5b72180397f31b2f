"""A health probe over HTTP, for platforms that ask whether a worker still works. It serves two small JSON documents."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, TypeAlias

import msgspec

from psyqueue.cli.waits import within
from psyqueue.errors import ConfigError

REQUEST_BYTES_MAX = 8_192
REQUEST_MS_MAX = 5_000
"""Whoever opens a connection and says nothing is hung up on."""
CONNECTIONS_MAX = 64

Facts: TypeAlias = Callable[[], Awaitable[tuple[bool, dict[str, Any]]]]
"""Whether all is well, and the document that says why."""


class HealthServer:
    """`pages` by path, such as "/healthz": 200 where its facts say yes, else 503."""

    def __init__(self, pages: dict[str, Facts]) -> None:
        self._pages = pages
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self, host: str, port: int) -> str:
        """Listen; port 0 takes any free one. Returns the base URL. Raises ConfigError if the port is taken."""
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=REQUEST_BYTES_MAX)
        except OSError as exc:
            text = (
                f"health port {port} on {host} cannot be opened ({exc.strerror or exc}). Choose another --health-port"
            )
            raise ConfigError(text, port=port) from exc
        found_host, found_port = self._server.sockets[0].getsockname()[:2]
        return f"http://[{found_host}]:{found_port}" if ":" in found_host else f"http://{found_host}:{found_port}"

    async def stop(self) -> None:
        """Stop listening; answers that are under way are not waited for."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS_MAX:
                writer.write(await within(self._answer(reader), REQUEST_MS_MAX))
                await within(writer.drain(), REQUEST_MS_MAX)
        except (TimeoutError, OSError, EOFError, ValueError):
            pass  # a client that went away or never asked properly; there is nobody to tell
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        request = await reader.readline()
        # The rest of the head is read, so that closing does not reset the connection under the answer.
        while (await reader.readline()).strip():
            pass
        words = request.decode("latin-1").split()
        if len(words) != 3 or not words[2].startswith("HTTP/"):
            return _response(HTTPStatus.BAD_REQUEST, {"ok": False, "error": "not an HTTP request"})
        if words[0] not in ("GET", "HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, {"ok": False, "error": "only GET"})
        page = self._pages.get(words[1].partition("?")[0])
        if page is None:
            known = ", ".join(self._pages)
            return _response(HTTPStatus.NOT_FOUND, {"ok": False, "error": f"there are {known}"})
        is_well, document = await page()
        status = HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE
        return _response(status, {"ok": is_well, **document}, has_body=words[0] == "GET")


def _response(status: HTTPStatus, document: dict[str, Any], *, has_body: bool = True) -> bytes:
    body = msgspec.json.encode(document)
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + (body if has_body else b"")
