"""Dead letters: jobs with the status `dead`. Looked at, run again, or deleted, through all pages."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from psyqueue.backend import Amended, Change, Filter
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.clock import to_at_ms
from psyqueue.errors import InvalidState, JobNotFound
from psyqueue.job import name_problem
from psyqueue.kernel.options import read_id, read_name
from psyqueue.kernel.queries import get_view, read_cursor, read_limit
from psyqueue.kernel.views import JobView, Page, view_of

if TYPE_CHECKING:
    from psyqueue.kernel.core import Core


class DeadLetters:
    """What `q.dead_letter` is: jobs that cannot go on, kept until somebody decides."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def list(
        self, *, queue: str | None = None, name: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[JobView]:
        """Dead jobs, a page at a time; each is returned once in a walk. Raises InvalidOption, StoreError."""
        self._core.require_running()
        page = await self._core.backend.list_jobs(_dead(queue, name), read_cursor(cursor), read_limit(limit))
        return Page(tuple(map(view_of, page.jobs)), page.cursor)

    async def replay(self, job_id: str) -> JobView:
        """Run it again from the start: attempts and losses 0, errors kept.

        Raises JobNotFound, InvalidState, InvalidOption.
        """
        core, job_id = self._core, read_id(job_id)
        core.require_running()
        if name_problem(job_id):
            raise JobNotFound(job_id)
        where = Filter(ids=(job_id,), statuses=("dead",))
        amended = await self._amend(where, Change(kind="replay"), None, 1)
        view = await get_view(core, job_id)
        if view is None:
            raise JobNotFound(job_id)
        if view.id not in amended.changed:
            if view.status != "dead":
                raise InvalidState(f"job {view.id!r} is {view.status}, not dead: there is nothing to replay")
            why = "is held by a move" if view.held else f"its unique key {view.unique_key!r} is held by a live job"
            raise InvalidState(f"job {view.id!r} cannot be replayed: {why}")
        return view

    async def replay_all(self, *, queue: str | None = None, name: str | None = None) -> int:
        """Replay everything that is dead now; one that dies again meanwhile is left. How many were replayed.

        Raises InvalidOption; StoreError, and then those before it are replayed.
        """
        return await self._all(queue, name, None, Change(kind="replay"))

    async def purge(self, *, queue: str | None = None, name: str | None = None, before: datetime | None = None) -> int:
        """Delete dead jobs, those that died before `before` if given. How many were deleted.

        Raises InvalidOption; StoreError, and then those before it are deleted.
        """
        return await self._all(queue, name, before, Change(kind="delete"))

    async def _all(self, queue: str | None, name: str | None, before: datetime | None, change: Change) -> int:
        core = self._core
        core.require_running()
        # Exclusive: what dies in this very millisecond is still for the walk.
        until_ms = (await core.backend.info()).now_ms + 1 if before is None else to_at_ms("before", before)
        where = _dead(queue, name, until_ms)
        count, cursor = 0, None
        while True:
            amended = await self._amend(where, change, cursor, ITEMS_MAX)
            count += len(amended.changed)
            cursor = amended.cursor
            if cursor is None:
                return count

    async def _amend(self, where: Filter, change: Change, cursor: str | None, limit: int) -> Amended:
        core = self._core
        amended = await core.operate(lambda op: core.backend.amend(op, where, change, cursor, limit))
        if change.kind == "replay" and amended.changed and core.bus.wants("job:replayed"):
            for stored in await core.backend.get(amended.changed):
                if stored is not None:
                    job = stored.job
                    core.bus.publish("job:replayed", {"job_id": job.id, "queue": job.queue, "name": job.name})
        return amended


def _dead(queue: str | None, name: str | None, ended_before_ms: int | None = None) -> Filter:
    return Filter(
        statuses=("dead",),
        queues=() if queue is None else (read_name("queue", queue),),
        names=() if name is None else (read_name("name", name),),
        ended_before_ms=ended_before_ms,
    )
