"""What stands around one job in the store: the settings of its queue, the workers, the jobs that it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from psyqueue.backend import Filter, Limits, QueueInfo, SessionInfo
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.backend.compose import all_sessions, limits_of
from psyqueue.job import Status
from psyqueue.kernel.options import unscoped

if TYPE_CHECKING:
    from psyqueue.backend import BackendAdapter
    from psyqueue.kernel.views import JobView

_BY_LANE = frozenset(("paused:lane", "limit:lane", "rate:lane"))
_PAST_THE_GATE: tuple[Status, ...] = ("active", "pending", "scheduled")


class Surroundings(Struct, frozen=True, kw_only=True):
    """`needed`: statuses of jobs that it waits for, None of one that is gone. `at_gate`: who has its gate, if seen.

    `of_lane`: the settings of its lane, if these hold it back.
    """

    now_ms: int
    info: QueueInfo | None
    of_lane: Limits | None
    sessions: Sequence[SessionInfo]
    needed: dict[str, Status | None]
    at_gate: tuple[str, Status] | None

    def limits(self, where: str) -> Limits | None:
        """Of its `queue` or `lane`."""
        if where == "lane":
            return self.of_lane
        return None if self.info is None else self.info.limits

    def count(self, status: Status) -> int:
        """Jobs of its queue."""
        return 0 if self.info is None else self.info.counts.get(status, 0)


async def look_around(backend: BackendAdapter, view: JobView) -> Surroundings:
    """Some reads, one after the other: each is a moment of its own."""
    needed = tuple(code.partition(":")[2] for code in view.blocked_by if code.startswith("needs:"))[:ITEMS_MAX]
    found = await backend.get(needed) if needed else ()
    # A name sorts before everything that it is the beginning of.
    infos, _ = await backend.queues(view.queue, None, 1)
    return Surroundings(
        now_ms=(await backend.info()).now_ms,
        info=infos[0] if infos and infos[0].queue == view.queue else None,
        of_lane=await limits_of(backend, view.queue, view.lane) if _BY_LANE.intersection(view.blocked_by) else None,
        sessions=await all_sessions(backend),
        needed={job_id: None if each is None else each.status for job_id, each in zip(needed, found, strict=True)},
        at_gate=await _at_gate(backend, view),
    )


async def _at_gate(backend: BackendAdapter, view: JobView) -> tuple[str, Status] | None:
    """The job of its order key that goes first. It is looked for in its own queue, in one page of each status."""
    keys = [code.partition(":")[2] for code in view.blocked_by if code.startswith("gate:")]
    for status in _PAST_THE_GATE if keys else ():
        page = await backend.list_jobs(Filter(queues=(view.queue,), statuses=(status,)), None, ITEMS_MAX)
        for stored in page.jobs:
            gate = stored.job.gate
            if gate is not None and gate.key in keys:
                return stored.job.id, stored.status
    return None


def gate_name(code: str) -> str:
    """The order key of a code `gate:<key>`, as its caller gave it."""
    return unscoped(code.partition(":")[2])
