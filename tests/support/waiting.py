"""Waiting for what another process does: the only place of the tests that lets time pass."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable

_POLL_S = 0.01


def wait_until(is_true: Callable[[], bool], *, limit_s: float = 10.0) -> bool:
    """The last answer of `is_true`, asked until it is yes or the limit has passed."""
    end = time.monotonic() + limit_s
    tick = threading.Event()
    while not (answer := is_true()) and time.monotonic() < end:
        tick.wait(_POLL_S)
    return answer


def is_process_alive(pid: int) -> bool:
    """A zombie is dead: in a container nobody may reap an orphan."""
    asked = ["ps", "-o", "stat=", "-p", str(pid)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip()[:1] not in ("", "Z")
