"""What a store's step refuses, by the code that it gives: one table for all that run their steps on a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from psyqueue.errors import (
    IdConflict,
    InvalidState,
    KeyConflict,
    NamespaceFrozen,
    NamespaceMoved,
    QueueFull,
    RateLimitError,
    Refused,
    SessionLost,
    StaleOp,
    StateConflict,
    UnknownDependency,
)

_REFUSALS: dict[str, Callable[..., Refused]] = {
    "ID_CONFLICT": IdConflict,
    "KEY_CONFLICT": KeyConflict,
    "UNKNOWN_DEPENDENCY": UnknownDependency,
    "QUEUE_FULL": QueueFull,
    "STATE_CONFLICT": StateConflict,
    "RATE_LIMIT_EXCEEDED": RateLimitError,
    "NAMESPACE_MOVED": NamespaceMoved,
    "NAMESPACE_FROZEN": lambda mode: NamespaceFrozen(f"the namespace is {mode}: jobs are being moved. Try again later"),
    "SESSION_LOST": SessionLost,
    "INVALID_STATE": InvalidState,
    "STALE_OP": lambda turn: StaleOp(f"a late duplicate: turn {turn} of its channel was done since"),
}


def refusal(code: str, facts: Sequence[Any]) -> Refused:
    """The error of a code; `facts` are its arguments, in order."""
    return _REFUSALS[code](*facts)
