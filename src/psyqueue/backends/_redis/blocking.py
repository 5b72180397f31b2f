"""The lease thread's way to the server: blocking, on a connection of its own, so that no event loop can hold it up."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, Final

from psyqueue.backends._redis.address import Address, greeting
from psyqueue.backends._redis.faults import RETIRING, ReplyError, closed, lost, translate
from psyqueue.backends._redis.forks import closes_in_child, forked, let_go
from psyqueue.backends._redis.resp import NOTHING, Argument, ProtocolError, new_reader, pack
from psyqueue.backends.sockets import tune
from psyqueue.clock import SystemClock

_READ_BYTES: Final = 65_536
_CLOSE_MS: Final = 1_000


class BlockingLink:
    """One thread calls; `close` may come from another. After any failure the next call connects anew."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._clock = SystemClock()
        self._mutex = threading.Lock()
        self._socket: socket.socket | None = None
        self._reader = new_reader()
        self._is_closed = False
        self._is_forked = False
        closes_in_child(self)

    @property
    def place(self) -> str:
        """The server, for messages."""
        return self._address.place

    def call(self, *args: Argument) -> Any:
        """As `Link.call`."""
        with self._mutex:
            if self._is_forked:
                raise forked(self._address.place)
            if self._is_closed:
                raise closed(self._address.place)
            if self._socket is None:
                self._connect()
            reply = self._ask(pack(args))
            if self._is_closed or (isinstance(reply, ReplyError) and reply.code in RETIRING):
                self._drop()
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    def close(self) -> None:
        """A call on its way ends in doubt. Idempotent."""
        self._is_closed = True
        # Before the mutex: the call that holds it may be waiting for a server that is gone.
        if (sock := self._socket) is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        if self._mutex.acquire(timeout=_CLOSE_MS / 1000):
            try:
                self._drop()
            finally:
                self._mutex.release()

    def close_in_child(self) -> None:
        self._mutex = threading.Lock()  # whoever held it is no thread of this process
        if self._socket is not None:
            self._is_forked = True
            let_go(self._socket.fileno())

    # ── one connection ────────────────────────────────────────────────────────────────────────────────────────────────
    def _connect(self) -> None:
        """Raises StoreUnavailable, StoreUnusable."""
        limit_ms = self._address.connect_timeout_ms
        ends_at_ms = self._clock.mono_ms() + limit_ms
        try:
            self._reader = new_reader()
            self._socket = self._dial(limit_ms / 1000)
            self._greet(ends_at_ms)
        except Exception as exc:
            self._drop()
            raise translate(exc, self._address.place) from exc

    def _dial(self, limit_s: float) -> socket.socket:
        address = self._address
        if address.unix_socket is None:
            sock = socket.create_connection((address.host, address.port), limit_s)
        else:
            sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(limit_s)
            if address.unix_socket is not None:
                sock.connect(address.unix_socket)
            tune(sock)
            if address.tls is not None:
                return address.tls.context().wrap_socket(sock, server_hostname=address.host)
        except BaseException:
            sock.close()
            raise
        return sock

    def _greet(self, ends_at_ms: float) -> None:
        source = self._address.credential_source
        commands = greeting(self._address, self._address.credentials if source is None else source.get_credentials())
        self._send(b"".join(map(pack, commands)), ends_at_ms)
        refusals = [self._read(ends_at_ms) for _ in commands]
        if isinstance(refusals[-1], ReplyError) and refusals[-1].code != "NOAUTH":
            refusals[-1] = None  # who may not give its connection a name does without
        for refusal in refusals:
            if isinstance(refusal, ReplyError):
                raise refusal

    def _ask(self, packed: bytes) -> Any:
        ends_at_ms = self._clock.mono_ms() + self._address.timeout_ms
        try:
            self._send(packed, ends_at_ms)
            return self._read(ends_at_ms)
        except TimeoutError as exc:
            why = f"no reply came within the timeout of {self._address.timeout_ms} ms"
            raise lost(self._address.place, why) from self._dropped(exc)
        except (OSError, EOFError) as exc:
            raise lost(self._address.place, f"the connection was lost ({exc})") from self._dropped(exc)
        except ProtocolError as exc:
            why = f"what came is not Redis's protocol ({exc})"
            raise lost(self._address.place, why) from self._dropped(exc)

    def _send(self, packed: bytes, ends_at_ms: float) -> None:
        assert self._socket is not None
        self._socket.settimeout(self._left_s(ends_at_ms))
        self._socket.sendall(packed)

    def _read(self, ends_at_ms: float) -> Any:
        """Raises OSError, EOFError, ProtocolError; then the connection is of no use any more."""
        assert self._socket is not None
        while (received := self._reader.gets()) is NOTHING:
            self._socket.settimeout(self._left_s(ends_at_ms))
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise EOFError("the server closed it")
            self._reader.feed(data)
        return received

    def _left_s(self, ends_at_ms: float) -> float:
        left_ms = ends_at_ms - self._clock.mono_ms()
        if left_ms <= 0:
            raise TimeoutError
        return left_ms / 1000

    def _dropped(self, exc: Exception) -> Exception:
        """A late reply must not be taken for the next one's."""
        self._drop()
        return exc

    def _drop(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()
