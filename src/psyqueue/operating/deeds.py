"""What operators do to jobs, one or many: run them again, cancel them, delete them."""

from __future__ import annotations

from msgspec import Struct

from psyqueue.backend import Change
from psyqueue.job import LIVE, STATUSES, TERMINAL, Status


class Deed(Struct, frozen=True):
    """`key`: of the number in JSON. `question`: what is asked, `{jobs}` is how many. `done`: what they were then.

    `statuses`: of the jobs that it can be done to.
    """

    key: str
    question: str
    done: str
    change: Change
    statuses: tuple[Status, ...]


_LIVE: tuple[Status, ...] = tuple(status for status in STATUSES if status in LIVE)
_ENDED: tuple[Status, ...] = tuple(status for status in STATUSES if status in TERMINAL)

RETRY = Deed("retried", "Run {jobs} again", "run again", Change(kind="replay"), ("dead",))
CANCEL = Deed("cancelled", "Cancel {jobs}", "cancelled", Change(kind="cancel", reason="cancelled by request"), _LIVE)
DELETE = Deed("deleted", "Delete {jobs} for good", "deleted", Change(kind="delete"), _ENDED)
