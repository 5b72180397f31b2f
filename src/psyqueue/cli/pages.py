"""A few pages over HTTP, for probes and scrapers: whether a worker still works, and what plugins have to show."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from psyqueue.cli.waits import within
from psyqueue.errors import ConfigError

log: logging.Logger = logging.getLogger(__name__)

REQUEST_BYTES_MAX = 8_192
REQUEST_MS_MAX = 5_000
"""Whoever opens a connection and says nothing is hung up on."""
CONNECTIONS_MAX = 64
JSON = "application/json"


class Answer(Struct, frozen=True):
    """What is under a path now."""

    status: HTTPStatus
    content_type: str
    body: bytes


Page: TypeAlias = Callable[[], Awaitable[Answer]]


class PageServer:
    """`pages` by path, such as "/healthz". `option`: the one of the command that chose the port."""

    def __init__(self, pages: Mapping[str, Page], *, option: str) -> None:
        self._pages = pages
        self._option = option
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self, host: str, port: int) -> str:
        """Listen; port 0 takes any free one. Returns the base URL. Raises ConfigError if the port is taken."""
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=REQUEST_BYTES_MAX)
        except OSError as exc:
            text = f"port {port} on {host} cannot be opened ({exc.strerror or exc}). Choose another {self._option}"
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
                writer.write(await within(self._reply(reader), REQUEST_MS_MAX))
                await within(writer.drain(), REQUEST_MS_MAX)
        except (TimeoutError, OSError, EOFError, ValueError):
            pass  # a client that went away or never asked properly; there is nobody to tell
        finally:
            self._open -= 1
            writer.close()

    async def _reply(self, reader: asyncio.StreamReader) -> bytes:
        request = await reader.readline()
        # The rest of the head is read, so that closing does not reset the connection under the answer.
        while (await reader.readline()).strip():
            pass
        words = request.decode("latin-1").split()
        if len(words) != 3 or not words[2].startswith("HTTP/"):
            return _written(_problem(HTTPStatus.BAD_REQUEST, "not an HTTP request"))
        if words[0] not in ("GET", "HEAD"):
            return _written(_problem(HTTPStatus.METHOD_NOT_ALLOWED, "only GET"))
        answer = await self._answer(words[1].partition("?")[0])
        return _written(answer, has_body=words[0] == "GET")

    async def _answer(self, path: str) -> Answer:
        page = self._pages.get(path)
        if page is None:
            return _problem(HTTPStatus.NOT_FOUND, f"there are {', '.join(self._pages)}")
        try:
            return await page()
        except Exception:
            log.exception("a page failed", extra={"path": path})
            return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "it failed; the log says why")


def document(is_well: bool, facts: dict[str, Any]) -> Answer:
    """`facts` as JSON, with "ok" before them: 200 if all is well, else 503."""
    status = HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE
    return Answer(status, JSON, msgspec.json.encode({"ok": is_well, **facts}))


def _problem(status: HTTPStatus, error: str) -> Answer:
    return Answer(status, JSON, msgspec.json.encode({"ok": False, "error": error}))


def _written(answer: Answer, *, has_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\nContent-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + (answer.body if has_body else b"")
