"""How our TCP sockets are set."""

from __future__ import annotations

import contextlib
import socket

_KEEPALIVE = {
    # Half-open connections end by themselves: looked at after 15 s of silence, given up 15 s later.
    "TCP_KEEPIDLE": 15,
    "TCP_KEEPALIVE": 15,  # its name on macOS
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
}


def tune(sock: socket.socket) -> None:
    """Small calls leave at once, and a server that vanished is noticed. What a system lacks is left out."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    settings = [(socket.IPPROTO_TCP, "TCP_NODELAY", 1), (socket.SOL_SOCKET, "SO_KEEPALIVE", 1)]
    settings += [(socket.IPPROTO_TCP, name, value) for name, value in _KEEPALIVE.items()]
    for level, name, value in settings:
        if (option := getattr(socket, name, None)) is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(level, option, value)
