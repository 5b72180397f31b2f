"""The event loop's way to the server: one connection that all callers share, made when it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from psyqueue.backends._redis.address import Address, greeting
from psyqueue.backends._redis.faults import ReplyError, closed, translate
from psyqueue.backends._redis.forks import closes_in_child, forked
from psyqueue.backends._redis.resp import Argument, pack
from psyqueue.backends._redis.wire import Wire
from psyqueue.errors import PsyQueueError

_CLOSE_MS: Final = 1_000


class Link:
    """`call` sends a command and returns its reply. Belongs to one event loop.

    It connects at the first call, and at the first one after a loss; callers that come meanwhile share the attempt.
    How long to wait before trying again is the caller's business. `timeout_ms`: for a reply, else the address's.
    With `on_push` the connection is one for messages: use `connect` and `tell`; every reply goes to `on_push`, and
    `on_lost` is called when the connection is gone.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout_ms: int | None = None,
        on_push: Callable[[Any], None] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self.timeout_ms = address.timeout_ms if timeout_ms is None else timeout_ms
        self._address = address
        self._on_push = on_push
        self._on_lost = on_lost
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[Exception | None] | None = None
        self._is_closed = False
        self._is_forked = False
        closes_in_child(self)

    @property
    def is_connected(self) -> bool:
        return self._wire is not None

    @property
    def place(self) -> str:
        """The server, for messages."""
        return self._address.place

    async def call(self, *args: Argument) -> Any:
        """The reply: bytes, int, list or None.

        Raises ReplyError for an error of the server (see `faults.translate`), StoreUnavailable with outcome "refused"
        if the server cannot be reached and "unknown" if the reply did not come, StoreUnusable if it does not let us
        in. A caller that is cancelled leaves the others' replies in order; its own command may be done all the same.
        """
        wire = self._wire
        if wire is None or wire.is_paused:
            wire = await self._ready()
        return await wire.send(pack(args))

    async def call_all(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """The replies, in order; nobody's command comes in between. Raises the first error, as `call` does."""
        wire = await self._ready()
        replies = [wire.send(pack(command)) for command in commands]
        found = await asyncio.gather(*replies, return_exceptions=True)
        for reply in found:
            if isinstance(reply, BaseException):
                raise reply
        return found

    async def connect(self) -> None:
        """Connect if it is not. Raises as `call` does."""
        await self._ready()

    def tell(self, *args: Argument) -> None:
        """Send what has no reply of its own; lost if there is no connection."""
        if self._wire is not None:
            self._wire.tell(pack(args))

    async def close(self) -> None:
        """Calls on their way end in doubt, later ones are refused. Idempotent."""
        self._is_closed = True
        connecting, wire = self._connecting, self._wire
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait({connecting})
        if wire is None:
            return
        wire.close()
        try:
            async with asyncio.timeout(_CLOSE_MS / 1000):
                await wire.ended.wait()
        except TimeoutError:
            wire.abort("the connection was closed here")

    def close_in_child(self) -> None:
        if self._wire is not None or self._connecting is not None:
            self._is_forked = True
            self._wire = None

    # ── connecting ────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _ready(self) -> Wire:
        """An open connection that takes another call."""
        while True:
            if self._is_forked:
                raise forked(self.place)
            if self._is_closed:
                raise closed(self.place)
            wire = self._wire
            if wire is None:
                await self._connect()
            elif wire.is_paused:
                await wire.may_write.wait()
            else:
                return wire

    async def _connect(self) -> None:
        """One attempt, shared: a caller that is cancelled must not take the others' connection with it."""
        connecting = self._connecting
        if connecting is None:
            connecting = asyncio.get_running_loop().create_task(self._try(), name="psyqueue-redis-connect")
            self._connecting = connecting
        await asyncio.wait({connecting})
        if connecting.cancelled():
            raise closed(self.place)
        if (failure := connecting.result()) is not None:
            raise translate(failure, self.place) from failure

    async def _try(self) -> Exception | None:
        """The failure is a value: each of those who wait raises an error of its own."""
        try:
            async with asyncio.timeout(self._address.connect_timeout_ms / 1000):
                wire = await self._dial()
                try:
                    await self._greet(wire)
                except BaseException:
                    wire.abort("the server did not let us in")
                    raise
        except Exception as exc:  # noqa: BLE001 - a source of credentials may raise anything; all is told to the callers
            return exc
        finally:
            self._connecting = None
        wire.on_push = self._on_push
        self._wire = wire
        return None

    async def _dial(self) -> Wire:
        address, loop = self._address, asyncio.get_running_loop()
        if address.unix_socket is not None:
            _, wire = await loop.create_unix_connection(self._new_wire, address.unix_socket)
            return wire
        context = await loop.run_in_executor(None, address.tls.context) if address.tls is not None else None
        # Addresses one after the other: asyncio's race between them (happy eyeballs) leaks sockets when it is cut.
        _, wire = await loop.create_connection(self._new_wire, address.host, address.port, ssl=context)
        return wire

    def _new_wire(self) -> Wire:
        return Wire(self.place, self.timeout_ms, self._on_gone)

    async def _greet(self, wire: Wire) -> None:
        """Raises ReplyError, EOFError."""
        source = self._address.credential_source
        credentials = self._address.credentials if source is None else await source.get_credentials_async()
        if wire.early_error is not None:
            raise wire.early_error
        asked = [wire.send(pack(command)) for command in greeting(self._address, credentials)]
        replies = await asyncio.gather(*asked, return_exceptions=True)
        if isinstance(replies[-1], ReplyError) and replies[-1].code != "NOAUTH":
            replies[-1] = None  # who may not give its connection a name does without
        for reply in replies:
            if isinstance(reply, PsyQueueError):
                raise wire.early_error or EOFError from reply
            if isinstance(reply, BaseException):
                raise reply

    def _on_gone(self, wire: Wire) -> None:
        if self._wire is wire:
            self._wire = None
            if self._on_lost is not None:
                self._on_lost()
