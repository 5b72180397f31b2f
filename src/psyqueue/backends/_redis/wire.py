"""One connection of the event loop's, from its beginning to its end. Replies meet their calls by their order."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from typing import Any, Final, cast

from psyqueue.backends._redis.faults import RETIRING, ReplyError, lost
from psyqueue.backends._redis.forks import closes_in_child, let_go
from psyqueue.backends._redis.resp import NOTHING, ProtocolError, new_reader
from psyqueue.backends.sockets import tune

UNSENT_BYTES_MAX: Final = 1 << 20
"""Callers wait while more than this is on its way to the server: a stalled one must not fill our memory."""
_READ_BYTES: Final = 65_536
_LATE_MS: Final = 100
"""A timer that comes later than this was held up by our own loop: the reply may lie unread."""


class Wire(asyncio.BufferedProtocol):
    """`on_gone` is told, once, when no more calls may be sent; `on_push` takes the replies that no call waits for.

    What is read goes into a buffer of our own: asyncio's plain protocol gets new memory for each read, which doubled
    the cost of a lone call (docs/adr/0006).
    """

    def __init__(self, place: str, timeout_ms: int, on_gone: Callable[[Wire], None]) -> None:
        self.is_paused = False
        self.is_open = True
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.ended = asyncio.Event()
        self.on_push: Callable[[Any], None] | None = None
        self.early_error: ReplyError | None = None
        """What the server said before it was asked: it turned us away."""
        self._place = place
        self._timeout_ms = timeout_ms
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._in_flight: collections.deque[tuple[asyncio.Future[Any], float]] = collections.deque()
        self._unsent: list[bytes] = []
        self._why = "the connection was lost"
        self._transport: asyncio.Transport | None = None
        self._file_number = -1
        self._reader = new_reader()
        self._buffer = bytearray(_READ_BYTES)
        # Never the bytearray itself: asyncio's TLS slices what it is given, and a slice of that would be a copy.
        self._view = memoryview(self._buffer)
        self._timer: asyncio.TimerHandle | None = None
        closes_in_child(self)

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(UNSENT_BYTES_MAX)
        sock = transport.get_extra_info("socket")
        self._file_number = sock.fileno()
        tune(sock)

    def eof_received(self) -> None:
        self._why = "the server closed the connection"

    def connection_lost(self, exc: Exception | None) -> None:
        self._file_number = -1
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        why = self._why if exc is None else f"{self._why} ({exc})"
        while self._in_flight:
            reply, _ = self._in_flight.popleft()
            if not reply.done():
                reply.set_exception(lost(self._place, why))
        self.is_paused = False
        self.may_write.set()
        self.ended.set()
        self._retire()

    def _retire(self) -> None:
        if self.is_open:
            self.is_open = False
            self._on_gone(self)

    def close(self) -> None:
        """What was sent leaves, what has no reply yet ends in doubt; `ended` says when."""
        self._why = "the connection was closed here"
        self._flush()
        self._retire()
        if self._transport is not None:
            self._transport.close()

    def abort(self, why: str) -> None:
        """At once: a reply that comes too late must not be taken for another one's."""
        self._why = why
        self._retire()
        if self._transport is not None:
            self._transport.abort()

    def close_in_child(self) -> None:
        let_go(self._file_number)

    # ── sending ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """The reply to come; one that nobody waits for any more is read and dropped.

        A lone call leaves at once; those that come while others are on their way leave together at the end of the
        turn: a write costs twice as much as the rest of a call (docs/adr/0006).
        """
        reply: asyncio.Future[Any] = self._loop.create_future()
        transport = self._transport
        if transport is None:
            reply.set_exception(lost(self._place, self._why))
            return reply
        sent_at = self._loop.time()
        is_alone = not self._in_flight
        self._in_flight.append((reply, sent_at))
        if self._timer is None:
            self._set_timer(sent_at + self._timeout_ms / 1000)
        if is_alone and not self._unsent:
            transport.write(packed)
        else:
            self.tell(packed)
        return reply

    def tell(self, packed: bytes) -> None:
        """Send what has no reply of its own."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(packed)

    def _flush(self) -> None:
        if self._transport is not None and self._unsent:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def pause_writing(self) -> None:
        self.is_paused = True
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.is_paused = False
        self.may_write.set()

    # ── receiving ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's name
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        reader, in_flight = self._reader, self._in_flight
        reader.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type] # takes any buffer
        try:
            while (received := reader.gets()) is not NOTHING:
                if not in_flight:
                    self._push(received)
                    continue
                reply, _ = in_flight.popleft()
                if type(received) is ReplyError:
                    self._refuse(reply, received)
                elif not reply.done():
                    reply.set_result(received)
        except ProtocolError as exc:
            self.abort(f"what came is not Redis's protocol ({exc})")
        if not self.is_open and not in_flight and self._transport is not None:
            self._transport.close()

    def _refuse(self, reply: asyncio.Future[Any], error: ReplyError) -> None:
        if error.code in RETIRING:
            self._retire()
        if not reply.done():
            reply.set_exception(error)

    def _push(self, received: Any) -> None:
        if self.on_push is not None:
            self.on_push(received)
            return
        if type(received) is ReplyError:
            self.early_error = received
        self.abort("the server sent what nobody asked for")

    def _set_timer(self, at: float) -> None:
        self._timer = self._loop.call_at(at, self._on_timer, at)

    def _on_timer(self, at: float) -> None:
        """One timer a connection: it looks at the oldest call, and comes back when that one's time is over."""
        self._timer = None
        if not self._in_flight:
            return
        now = self._loop.time()
        ends_at = self._in_flight[0][1] + self._timeout_ms / 1000
        if ends_at > now:
            self._set_timer(ends_at)
        elif now - at > _LATE_MS / 1000:
            self._set_timer(now + self._timeout_ms / 1000)
        else:
            self.abort(f"no reply came within the timeout of {self._timeout_ms} ms")
