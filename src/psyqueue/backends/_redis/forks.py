"""What a forked child inherits and must not keep: sockets over which its parent talks."""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Any, Protocol

from psyqueue.errors import ForkedProcess


class Inherited(Protocol):
    def close_in_child(self) -> None:
        """Let go of the socket without a word to the server: the parent goes on using it."""
        ...


_handles: weakref.WeakSet[Any] = weakref.WeakSet()


def closes_in_child(handle: Inherited) -> None:
    _handles.add(handle)


def let_go(file_number: int) -> None:
    """Put nothing in the place of this process's copy of a socket.

    Kept open it would keep the connection alive after its parent hung up. The number stays taken: whatever still
    believes in it, an event loop's transport for instance, then closes nothing of somebody else's.
    """
    if file_number < 0:
        return
    with contextlib.suppress(OSError):
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, file_number)
        os.close(nothing)


def forked(place: str) -> ForkedProcess:
    return ForkedProcess(f"the connection to {place} was made before a fork. Make a new backend in the child")


def _after_fork() -> None:
    for handle in list(_handles):
        handle.close_in_child()
    _handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
