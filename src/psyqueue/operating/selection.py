"""The jobs that a filter means: counted, walked page by page, changed in steps. Nothing is looked through unsaid."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from psyqueue import JobView, PsyQueue
from psyqueue.backend import Amended, Change, Filter, QueueInfo
from psyqueue.backend import JobView as StoredJob
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.backend.compose import all_queues
from psyqueue.errors import InvalidState, JobNotFound
from psyqueue.job import STATUSES, Status, name_problem
from psyqueue.kernel.aio import next_turn
from psyqueue.kernel.cancels import tell_cancelled
from psyqueue.kernel.queries import read_cursor
from psyqueue.kernel.views import view_of
from psyqueue.operating.pace import Pace
from psyqueue.operating.query import Query, Term, read_query
from psyqueue.words import counted

Say: TypeAlias = Callable[[str], Any]

SAID_FROM = 5_000
"""From so many jobs on, it is said that they are looked through one by one."""


class Changed(Struct):
    """How many were changed, and how many were left alone because they could not be. `is_all`: no time was missing."""

    count: int = 0
    skipped: int = 0
    is_all: bool = True


class Selection:
    """The jobs that fit `terms`, in `statuses`. Opened once the queue runs: ages count from the store's clock."""

    def __init__(
        self, queue: PsyQueue, query: Query, infos: list[QueueInfo] | None, now_ms: int, say: Say | None
    ) -> None:
        self._core = queue._core  # noqa: SLF001 - many jobs at once are changed here and nowhere in the public API
        self._query = query
        self._infos = infos
        self._now_ms = now_ms
        self._say = say
        self._is_said = False

    @classmethod
    async def open(
        cls,
        queue: PsyQueue,
        terms: tuple[Term, ...],
        statuses: tuple[Status, ...] = STATUSES,
        *,
        say: Say | None = None,
    ) -> Selection:
        """`say` is given a line for people, once, where many jobs are about to be looked through.

        Raises InvalidOption.
        """
        backend = queue.get_exposed("backend")
        now_ms = (await backend.info()).now_ms
        query = read_query(terms, now_ms)
        if statuses != STATUSES:
            query = query.narrow(statuses)
        # A listing of queues counts their jobs: it is asked for only where that is needed.
        infos = await all_queues(backend) if query.queues else None
        return cls(queue, _on_queues(query, infos or []), infos, now_ms, say)

    async def count(self) -> int:
        """How many jobs fit: from the counts of the queues where these tell, else by a look at each."""
        if self._query.is_counted:
            return 0 if self._query.is_void else await self._candidates()
        found = 0
        async for page in self._pages():
            found += len(page)
        return found

    async def page(
        self, limit: int, cursor: str | None, *, steps_max: int | None = None
    ) -> tuple[list[JobView], str | None]:
        """Up to `limit` jobs that fit, and the cursor of the rest. Raises InvalidOption.

        `steps_max`: so many calls of the store at most, each of up to 500 jobs, even if that finds fewer.
        """
        items: list[JobView] = []
        cursor = read_cursor(cursor)
        if self._query.is_void:
            return items, None
        await self._say_how_many()
        step = ITEMS_MAX
        for number in count(1):
            room = limit - len(items)
            found, after = await self._step(cursor, step if self._query.tests else room)
            if len(found) > room:
                # More than wanted: the same again in a step that cannot go too far.
                step = room
                continue
            items += [view for _, view in found]
            cursor, step = after, ITEMS_MAX
            if cursor is None or len(items) >= limit or (steps_max is not None and number >= steps_max):
                break
        return items, cursor

    async def glance(self) -> list[JobView]:
        """What fits among the first jobs that the store gives in one call: for whoever looks again and again."""
        if self._query.is_void:
            return []
        found, _ = await self._step(None, ITEMS_MAX)
        return [view for _, view in found]

    async def change(
        self, change: Change, pace: Pace | None = None, *, is_over: Callable[[], bool] = lambda: False
    ) -> Changed:
        """Change what fits when its turn comes, `pace` many at a time, until all is done or `is_over` says so."""
        done, step = Changed(), pace.step if pace else ITEMS_MAX
        if change.kind == "replay":
            # What dies again while the walk goes on is left.
            self._query = self._query.ended_before(self._now_ms + 1)
        if self._query.tests:
            async for page in self._pages():
                for at in range(0, len(page), step):
                    ids = tuple(view.id for view in page[at : at + step])
                    where = replace(self._query.where, ids=ids)
                    await self._amend(where, change, None, done)
                    if pace:
                        await pace.keep(len(ids))
                if is_over():
                    done.is_all = False
                    break
        elif not self._query.is_void:
            await self._say_how_many()
            where = self._query.where
            cursor: str | None = None
            while (amended := await self._amend(where, change, cursor, done, step)).cursor is not None:
                cursor = amended.cursor
                if pace:
                    await pace.keep(len(amended.changed))
                if is_over():
                    done.is_all = False
                    break
        return done

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _pages(self) -> AsyncIterator[list[JobView]]:
        if self._query.is_void:
            return
        await self._say_how_many()
        cursor: str | None = None
        while True:
            found, cursor = await self._step(cursor, ITEMS_MAX)
            yield [view for _, view in found]
            if cursor is None:
                return

    async def _step(self, cursor: str | None, limit: int) -> tuple[list[tuple[StoredJob, JobView]], str | None]:
        page = await self._core.backend.list_jobs(self._query.where, cursor, limit)
        found: list[tuple[StoredJob, JobView]] = []
        for stored in page.jobs:
            view = view_of(stored)
            if self._query.fits(stored, view):
                found.append((stored, view))
            if self._query.tests:
                await next_turn()  # others want to be served meanwhile, and whoever waits may lose patience
        return found, page.cursor

    async def _amend(
        self, where: Filter, change: Change, cursor: str | None, done: Changed, limit: int = ITEMS_MAX
    ) -> Amended:
        core = self._core
        amended = await core.operate(lambda op: core.backend.amend(op, where, change, cursor, limit))
        done.count += len(amended.changed)
        done.skipped += len(amended.skipped)
        if change.kind == "cancel" and amended.changed:
            await tell_cancelled(core, amended.changed)
        return amended

    async def _candidates(self) -> int:
        """Jobs in the queues and statuses that are meant."""
        if self._infos is None:
            self._infos = await all_queues(self._core.backend)
        statuses, queues = self._query.where.statuses or STATUSES, self._query.where.queues
        return sum(
            info.counts.get(status, 0)
            for info in self._infos
            if not queues or info.queue in queues
            for status in statuses
        )

    async def _say_how_many(self) -> None:
        if self._say is None or self._is_said or self._query.is_counted or self._query.where.ids:
            return
        self._is_said = True
        number = await self._candidates()
        if number < SAID_FROM:
            return
        fields = ", ".join(dict.fromkeys(self._query.tested))
        how = f"; {fields}: here, not in the store" if fields else ""
        self._say(f"psyqueue: looking through up to {counted(number, 'job')}{how}. status: and queue: make it shorter")


def _on_queues(query: Query, infos: list[QueueInfo]) -> Query:
    """Patterns for queues become the names that there are."""
    if not query.queues:
        return query
    meant = [
        info.queue
        for info in infos
        if (not query.where.queues or info.queue in query.where.queues)
        and all(term.fits(info.queue) for term in query.queues)
    ]
    return replace(
        query, where=replace(query.where, queues=tuple(meant)), queues=(), is_void=query.is_void or not meant
    )


async def delete_one(queue: PsyQueue, job_id: str) -> None:
    """Raises JobNotFound, InvalidState."""
    if name_problem(job_id):
        raise JobNotFound(job_id)
    core = queue._core  # noqa: SLF001 - jobs are deleted here and nowhere in the public API
    where, change = Filter(ids=(job_id,)), Change(kind="delete")
    amended = await core.operate(lambda op: core.backend.amend(op, where, change, None, 1))
    if job_id in amended.changed:
        return
    status = dict(amended.skipped).get(job_id)
    if status is None:
        raise JobNotFound(job_id)
    raise InvalidState(f"job {job_id!r} is {status}; cancel it first, or a live job waits for it")
