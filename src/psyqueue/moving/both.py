"""Reading and operating two stores as one: what is in either is seen once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from psyqueue.backend import (
    NO_EFFECTS,
    Amended,
    BackendAdapter,
    Change,
    Effects,
    Filter,
    Info,
    JobView,
    Op,
    Page,
    QueueInfo,
    SessionInfo,
    Survives,
)
from psyqueue.backend.compose import all_queues, all_sessions
from psyqueue.errors import InvalidOption
from psyqueue.job import Status
from psyqueue.kernel.aio import settle_down, spawn
from psyqueue.moving.routes import Routes

T = TypeVar("T")
SLICE_MS = 1_000
"""Who waits for news of two stores looks for itself this often: the news may come from the one that it left."""
_OLD, _NEW = "old:", "new:"
_WEAKEST: tuple[Survives, ...] = ("lost", "unknown", "bounded_loss", "safe")


class _Place(Struct, frozen=True):
    """Where a cursor stands: the store, and its own cursor there. `prefix`: of its cursors; "" where it is alone."""

    store: BackendAdapter
    cursor: str | None
    prefix: str

    def onward(self, after: str | None) -> str | None:
        """The cursor to give out: after the old store comes the new one."""
        if after is None:
            return _NEW if self.prefix == _OLD else None
        return self.prefix + after


class Both:
    """Every call asks first where things live now."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────
    async def info(self) -> Info:
        """Of the store that takes new jobs; what they survive is what the weaker one promises."""
        await self._routes.learn()
        infos = [await store.info() for store in self._routes.homes]
        last = infos[-1]
        if len(infos) == 1:
            return last
        weakest = {
            kind: min((getattr(info, kind) for info in infos), key=_WEAKEST.index)
            for kind in ("process_crash", "server_crash", "power_loss", "failover")
        }
        warnings = (*infos[0].warnings, *last.warnings, f"jobs are on their way from {infos[0].store} to {last.store}")
        return replace(last, store=f"{infos[0].store}, {last.store}", warnings=warnings, **weakest)

    async def get(self, ids: Sequence[str]) -> tuple[JobView | None, ...]:
        """The old store first: what leaves it is in the new one by then. A copy there is the job itself."""
        await self._routes.learn()
        views = await self._routes.homes[0].get(ids)
        for store in self._routes.homes[1:]:
            later = await store.get(ids)
            views = tuple(new or old for old, new in zip(views, later, strict=True))
        return views

    async def list_jobs(self, where: Filter, cursor: str | None, limit: int) -> Page:
        """All of the old store, then what only the new one has."""
        await self._routes.learn()
        place = self._place_of(cursor)
        page = await place.store.list_jobs(where, place.cursor, limit)
        jobs = page.jobs
        if place.prefix == _NEW:
            there = await self._routes.old.get([view.job.id for view in jobs])
            jobs = tuple(view for view, old in zip(jobs, there, strict=True) if old is None)
        return Page(jobs, place.onward(page.cursor))

    async def queues(self, prefix: str, cursor: str | None, limit: int) -> tuple[tuple[QueueInfo, ...], str | None]:
        """By name, counts of both stores together: what is copied already is counted twice until the move is over."""
        await self._routes.learn()
        homes = self._routes.homes
        if len(homes) == 1:
            return await homes[0].queues(prefix, cursor, limit)
        found: dict[str, QueueInfo] = {}
        for store in homes:
            for info in await all_queues(store, prefix):
                found[info.queue] = _added(found.get(info.queue), info)
        return _page_by(sorted(found), found, cursor, limit)

    async def sessions(self, cursor: str | None, limit: int) -> tuple[tuple[SessionInfo, ...], str | None]:
        """By id; one that is open in both stores is one."""
        await self._routes.learn()
        homes = self._routes.homes
        if len(homes) == 1:
            return await homes[0].sessions(cursor, limit)
        found: dict[str, SessionInfo] = {}
        for store in homes:
            for info in await all_sessions(store):
                before = found.get(info.session.id)
                found[info.session.id] = info if before is None else replace(before, held=before.held + info.held)
        return _page_by(sorted(found), found, cursor, limit)

    async def check(self, cursor: str | None, limit: int) -> tuple[tuple[str, ...], str | None]:
        await self._routes.learn()
        place = self._place_of(cursor)
        broken, after = await place.store.check(place.cursor, limit)
        return broken, place.onward(after)

    def _place_of(self, cursor: str | None) -> _Place:
        """What was given out before there were two stores goes on in the old one."""
        homes = self._routes.homes
        if len(homes) == 1:
            return _Place(homes[0], _rest(cursor, _NEW if self._routes.is_done else _OLD), "")
        if cursor is not None and cursor.startswith(_NEW):
            return _Place(homes[1], _rest(cursor, _NEW), _NEW)
        return _Place(homes[0], _rest(cursor, _OLD), _OLD)

    async def wait(self, queues: Sequence[str], job_ids: Sequence[str], timeout_ms: int) -> bool:
        """True if either store has news."""
        homes = self._routes.homes
        if len(homes) == 1:
            return await homes[0].wait(queues, job_ids, timeout_ms)
        slice_ms = min(timeout_ms, SLICE_MS)
        waits = [spawn(home.wait(queues, job_ids, slice_ms), name="psyqueue-wait", is_awaited=True) for home in homes]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            news = [wait.result() for wait in done]
        finally:
            for wait in waits:
                wait.cancel()
            await settle_down(waits, SLICE_MS)
        await self._routes.learn()
        return any(news) or timeout_ms > SLICE_MS

    # ── operating ─────────────────────────────────────────────────────────────────────────────────────────────────────
    async def amend(
        self, op: Op, where: Filter, change: Change, cursor: str | None, limit: int, effects: Effects
    ) -> Amended:
        """Named jobs in both stores in one call; others page by page, the old store first."""
        await self._routes.learn()
        return await self._routes.patiently(lambda: self._amend(op, where, change, cursor, limit, effects))

    async def _amend(
        self, op: Op, where: Filter, change: Change, cursor: str | None, limit: int, effects: Effects
    ) -> Amended:
        place = self._place_of(cursor)
        if place.prefix and where.ids:
            return await self._amend_named(op, where, change, limit, effects)
        amended = await place.store.amend(op, where, change, place.cursor, limit, effects)
        return replace(amended, cursor=place.onward(amended.cursor))

    async def _amend_named(self, op: Op, where: Filter, change: Change, limit: int, effects: Effects) -> Amended:
        """Those that the old store did not change are looked for in the new one."""
        old, new = self._routes.homes
        first = await _whole(old, op, where, change, limit, effects)
        left = tuple(job_id for job_id in where.ids if job_id not in first.changed)
        if not left:
            return first
        once = NO_EFFECTS if first.changed else effects
        second = await _whole(new, op, replace(where, ids=left), change, limit, once)
        changed = (*first.changed, *second.changed)
        status: dict[str, Status | None] = {}
        for job_id, found in (*first.skipped, *second.skipped):
            status[job_id] = found or status.get(job_id)
        left_alone: list[tuple[str, Status | None]] = [each for each in status.items() if each[0] not in changed]
        return Amended(changed, tuple(left_alone), None)


async def _whole(store: BackendAdapter, op: Op, where: Filter, change: Change, limit: int, effects: Effects) -> Amended:
    """Named jobs fit in one call, if the limit does not cut it."""
    return await store.amend(op, where, change, None, max(limit, len(where.ids)), effects)


def _rest(cursor: str | None, prefix: str) -> str | None:
    """What the store itself gave out. Raises InvalidOption for a cursor of before the move, or of something else."""
    if cursor is None or cursor == prefix:
        return None
    if cursor.startswith(prefix):
        return cursor[len(prefix) :]
    if cursor.startswith((_OLD, _NEW)):
        raise InvalidOption("cursor", cursor, "is of before the move went on. Begin with the first page")
    return cursor


def _added(before: QueueInfo | None, info: QueueInfo) -> QueueInfo:
    if before is None:
        return info
    oldest = [each.oldest_pending_at_ms for each in (before, info) if each.oldest_pending_at_ms is not None]
    return QueueInfo(
        queue=info.queue,
        counts={status: before.counts.get(status, 0) + info.counts.get(status, 0) for status in info.counts},
        oldest_pending_at_ms=min(oldest, default=None),
        lanes=max(before.lanes, info.lanes),
        limits=info.limits,
    )


def _page_by(
    names: list[str], found: Mapping[str, T], cursor: str | None, limit: int
) -> tuple[tuple[T, ...], str | None]:
    """The page of what is sorted by name after `cursor`."""
    after = [name for name in names if cursor is None or name > cursor]
    page = after[:limit]
    return tuple(found[name] for name in page), page[-1] if len(after) > limit else None
