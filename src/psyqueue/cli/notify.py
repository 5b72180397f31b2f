"""systemd's service protocol (Type=notify, WatchdogSec=): datagrams to the socket that NOTIFY_SOCKET names."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, MutableMapping

from psyqueue.clock import SystemClock
from psyqueue.kernel.aio import spawn

log: logging.Logger = logging.getLogger(__name__)

PINGS_PER_WATCHDOG = 3


class Notifier:
    """Says nothing where nobody asked. Takes the variables out of the environment: handlers' processes are not us."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._address = environment.pop("NOTIFY_SOCKET", "")
        watched_us, watched_pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        is_ours = watched_pid in ("", str(os.getpid()))
        is_watched = self._address and is_ours and watched_us.isdigit()
        self.watchdog_ms: float | None = int(watched_us) / 1000 if is_watched else None
        """How long systemd waits for a sign of life; None: it does not watch."""

    def ready(self, status: str) -> None:
        self._send("READY=1", f"STATUS={status}")

    def stopping(self, limit_ms: float) -> None:
        """It may take so long from now on."""
        self._send("STOPPING=1", "STATUS=draining", f"EXTEND_TIMEOUT_USEC={round(limit_ms * 1000)}")

    @contextlib.asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Meanwhile signs of life are sent by the event loop: none while it stands still, so that systemd restarts us.

        A store that is away stops none of them: a restart would not bring it back.
        """
        pings = None if self.watchdog_ms is None else spawn(self._ping(self.watchdog_ms), name="watchdog")
        try:
            yield
        finally:
            if pings is not None:
                pings.cancel()

    async def _ping(self, watchdog_ms: float) -> None:
        clock = SystemClock()
        while True:
            self._send("WATCHDOG=1")
            await clock.sleep_ms(watchdog_ms / PINGS_PER_WATCHDOG)

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # A leading @ stands for Linux's abstract name space.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
                connection.setblocking(False)
                connection.sendto("\n".join(lines).encode(), address)
        except OSError as exc:
            log.warning("systemd was not told", extra={"told": lines[0], "error": str(exc)})
