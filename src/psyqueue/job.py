"""What a job is: its statuses, the legal moves between them, the limits of its names."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Status: TypeAlias = Literal["waiting", "scheduled", "pending", "active", "completed", "dead", "cancelled"]

STATUSES: tuple[Status, ...] = get_args(Status)
LIVE: frozenset[Status] = frozenset(("waiting", "scheduled", "pending", "active"))
TERMINAL: frozenset[Status] = frozenset(("completed", "dead", "cancelled"))
UNSTARTED: frozenset[Status] = frozenset(("waiting", "scheduled", "pending"))

TRANSITIONS: dict[Status | Literal["new"], dict[Status, str]] = {
    "new": {
        "pending": "enqueue",
        "scheduled": "enqueue with run_at ahead",
        "waiting": "enqueue with unmet needs or a full gate",
        "cancelled": "enqueue with a need that can no longer be met",
    },
    "waiting": {
        "pending": "needs met and gate free",
        "scheduled": "needs met and gate free, run_at ahead",
        "cancelled": "a need can no longer be met, or cancel",
        "completed": "finish (signals)",
        "dead": "expired",
    },
    "scheduled": {"pending": "due", "cancelled": "cancel", "completed": "finish (signals)", "dead": "expired"},
    "pending": {
        "active": "dequeue",
        "scheduled": "run_at changed by an operator",
        "cancelled": "cancel",
        "completed": "finish (signals)",
        "dead": "expired",
    },
    "active": {
        "completed": "ack",
        "scheduled": "retry, snooze, or a loss after the first",
        "dead": "retries used up, fatal, lost too often",
        "pending": "release, or the first loss",
        "cancelled": "cooperative cancel",
    },
    "dead": {"pending": "replay", "waiting": "replay while its gate is full"},
    "completed": {},
    "cancelled": {},
}
"""Every legal move and what makes it. Drawn in docs/job_lifecycle.md; the conformance suite observes each of them."""

NAME_LENGTH_MAX = 200
PRIORITY_MAX = 1_000_000
RETRIES_MAX = 1_000
ERRORS_KEPT = 20
"""Errors of failed and lost runs kept per job; the oldest go first."""
ERROR_BYTES_MAX = 8_192
LOST_BACKOFF_MS = 5_000
LOST_BACKOFF_CAP_MS = 60_000


def lost_delay_ms(lost: int) -> int:
    """The wait after the `lost`-th loss (2 or more; the first loss goes back to its old place at once)."""
    return min(LOST_BACKOFF_CAP_MS, LOST_BACKOFF_MS << min(lost, 20))


def name_problem(name: object) -> str | None:
    """What is wrong with the name of a queue, job, lane or tenant; None if it will do.

    Names are 1–200 characters, without control characters or lone surrogates, and never interpreted by a store.
    """
    if not isinstance(name, str):
        return f"is {type(name).__name__}, not text"
    if not 1 <= len(name) <= NAME_LENGTH_MAX:
        return f"has {len(name)} characters; 1 to {NAME_LENGTH_MAX} are allowed"
    if not name.isprintable() and any(ch < " " or "\x7f" <= ch <= "\x9f" or "\ud800" <= ch <= "\udfff" for ch in name):
        return "holds a control character or a lone surrogate"
    return None
