"""Named places where a test makes the process die, fail or hang: at every commit border of every store.

Off unless both `PSYQUEUE_TEST=1` and `PSYQUEUE_FAILPOINT="name:action[:nth]"` stand in the environment when psyqueue is
imported; action is `kill` (SIGKILL to ourselves), `raise` (StoreUnavailable) or `hang`; nth counts from 1.
"""

from __future__ import annotations

import os
import signal
import threading

from psyqueue.errors import ConfigError, StoreUnavailable


class _Plan:
    def __init__(self, text: str) -> None:
        name, action, nth = (*text.split(":"), "1")[:3]
        if action not in ("kill", "raise", "hang"):
            raise ConfigError(f"PSYQUEUE_FAILPOINT={text!r}: the action is kill, raise or hang")
        self.name = name
        self.action = action
        self.left = int(nth)

    def reached(self, name: str) -> None:
        if name != self.name:
            return
        self.left -= 1
        if self.left != 0:
            return
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.action == "hang":
            threading.Event().wait()
        raise StoreUnavailable(f"failpoint {name}", failpoint=name)


def _plan_from_environment() -> _Plan | None:
    text = os.environ.get("PSYQUEUE_FAILPOINT")
    return _Plan(text) if text and os.environ.get("PSYQUEUE_TEST") == "1" else None


_plan = _plan_from_environment()


def failpoint(name: str) -> None:
    """Does nothing, unless a test asked for this very name."""
    if _plan is not None:
        _plan.reached(name)
