"""What a forked child inherits and must not keep: open handles that would hold the parent's locks and sockets alive."""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol


class Inherited(Protocol):
    def close_in_child(self) -> None:
        """Let go of the handle without a word to the file, the folder or the parent."""
        ...


_handles: weakref.WeakSet[Any] = weakref.WeakSet()
_leaked: list[object] = []
"""Connections are kept open in the child on purpose: SQLite would reach into the parent's file while closing them."""


def closes_in_child(handle: Inherited) -> None:
    _handles.add(handle)


def leak(connection: object) -> None:
    _leaked.append(connection)


def _after_fork() -> None:
    for handle in list(_handles):
        handle.close_in_child()
    _handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
