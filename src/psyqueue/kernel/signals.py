"""Signals that a process of ours listens to; what its handlers fork does not."""

from __future__ import annotations

import os
import signal
from typing import Any

_before: dict[int, Any] = {}


def keep_from_forks(number: int) -> None:
    """Called before a listener for the signal is set: a forked child gets back what was there until then.

    `multiprocessing` ends its processes by TERM. One that ignores it is waited for without end; one that hears it as
    we do tells this process's event loop, whose wake-up it shares before Python 3.12.
    """
    _before.setdefault(number, signal.getsignal(number) or signal.SIG_DFL)


def _after_fork() -> None:
    if not _before:
        return
    signal.set_wakeup_fd(-1)
    for number, action in _before.items():
        signal.signal(number, action)
    _before.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
