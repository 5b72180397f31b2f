"""What moves: which queues, and which of the jobs that have ended."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from psyqueue.backend import PARTS, Limits, Moved, MovedJob, Part
from psyqueue.errors import InvalidOption
from psyqueue.job import Status

ALWAYS: tuple[Status, ...] = ("waiting", "scheduled", "pending", "active", "dead")
"""Jobs that have work left, or that somebody may want to replay."""
_OF_QUEUES = ("limits", "keys", "jobs", "needs")


class Selection(Struct, frozen=True):
    """`include`: `completed`, `cancelled`, or both, besides what always moves. `queues`: only these; empty = all.

    An ended job that another one needs moves with it in any case.
    """

    include: tuple[Status, ...] = ()
    queues: tuple[str, ...] = ()

    @classmethod
    def of(cls, include: Iterable[str] = (), queues: Iterable[str] = ()) -> Selection:
        """Raises InvalidOption for a status that is none, or that always moves."""
        statuses = tuple(dict.fromkeys(include))
        for status in statuses:
            if status not in ("completed", "cancelled"):
                raise InvalidOption("include", status, "is neither completed nor cancelled", "All others always move")
        return cls(statuses, tuple(dict.fromkeys(queues)))  # type: ignore[arg-type]

    @property
    def is_whole(self) -> bool:
        """Nothing stays behind that could ever run: the source is closed for good."""
        return not self.queues

    @property
    def parts(self) -> tuple[Part, ...]:
        """In the order in which they are copied. Shared things belong to no queue and stay with the others."""
        return tuple(part for part in PARTS if part != "numbers" and (self.is_whole or part in _OF_QUEUES))

    def takes(self, item: Moved) -> bool:
        """Of the parts that belong to no queue everything moves."""
        if isinstance(item, MovedJob):
            return (item.is_needed or self.takes_status(item.status)) and self.takes_queue(item.job.queue)
        return not isinstance(item, Limits) or self.takes_queue(item.queue)

    def takes_status(self, status: str) -> bool:
        """Of all jobs; of the others it takes those that are needed."""
        return status in ALWAYS or status in self.include

    def takes_queue(self, queue: str) -> bool:
        return not self.queues or queue in self.queues
