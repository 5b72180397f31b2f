"""Makes the jobs that are due, in every process that has the plugin, without a leader: the store makes each once."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from psyqueue.backend import NewJob, Schedule
from psyqueue.errors import NamespaceFrozen, NamespaceMoved, Rejected, StoreError
from psyqueue.kernel.extension import Kernel
from psyqueue.plugins.scheduler.definition import Definition, decoded, encoded
from psyqueue.plugins.scheduler.shelf import Shelf

log: logging.Logger = logging.getLogger(__name__)

LOOK_MS: Final = 10_000
"""Schedules that other processes put or change are seen within this."""
LOOK_ALONE_MS: Final = 366 * 86_400_000
"""Where there are no others: looks in vain would make a month in a test long."""


class Firing:
    """`work` is the service; `look_soon` wakes it. `declared` are put into the store before anything is made."""

    def __init__(self, kernel: Kernel, declared: dict[str, Definition]) -> None:
        self._kernel = kernel
        self._shelf = Shelf(kernel)
        self._declared = declared
        self._news = asyncio.Event()
        self._told: dict[str, str] = {}
        """Per schedule what was last said about it: a trouble is told once, not at each look."""
        self._refused: dict[str, tuple[int, int]] = {}
        """Per schedule its version, and the instant that the store refused to make a job for."""

    def look_soon(self) -> None:
        """Something was changed in this process."""
        self._news.set()

    async def work(self) -> None:
        """Look, make what is due, sleep until the next instant; for ever. A store that is away is only waited for."""
        is_declared = False
        while True:
            self._news.clear()
            wait_ms: float = LOOK_MS
            try:
                if not is_declared:
                    await self._declare()
                    is_declared = True
                wait_ms = await self._look()
                self._told.pop("", None)
            except (StoreError, NamespaceFrozen, NamespaceMoved) as exc:
                self._tell("", "schedules have to wait for the store", exc)
            await self._kernel.wait(self._news, wait_ms)

    async def _declare(self) -> None:
        there = {each.id: each.spec for each in await self._shelf.all()} if self._declared else {}
        for schedule_id, definition in self._declared.items():
            if there.get(schedule_id) != encoded(definition):
                await self._shelf.put(schedule_id, definition)

    async def _look(self) -> float:
        """Everything once. How long until the next instant, or until others may have changed something."""
        schedules, now_ms = await self._shelf.all(), await self._shelf.now_ms()
        soonest_ms = now_ms + (LOOK_ALONE_MS if self._kernel.is_alone else LOOK_MS)
        for schedule in schedules:
            next_at_ms = schedule.next_at_ms
            if schedule.paused or next_at_ms is None:
                continue
            if next_at_ms <= now_ms:
                next_at_ms = await self._catch_up(schedule, next_at_ms, now_ms)
            if next_at_ms is not None:
                soonest_ms = min(soonest_ms, next_at_ms)
        self._forget({each.id for each in schedules})
        return max(0, soonest_ms - now_ms)

    async def _catch_up(self, schedule: Schedule, next_at_ms: int, now_ms: int) -> int | None:
        """Make what is due. The next instant to look at this schedule; None: there is none."""
        definition = decoded(schedule)
        if definition is None:
            self._tell(schedule.id, "a schedule that this release cannot read is left to those that can", None)
            return None
        instants = definition.due(next_at_ms, now_ms)
        if instants and self._refused.get(schedule.id) == (schedule.version, instants[0]):
            # It is the same schedule as then, so the instant had its job before: of a backfill, for example.
            instants = instants[1:]
        following_ms = definition.timing.next_after(now_ms)
        if not instants:
            await self._shelf.pass_over(schedule, following_ms)
            return following_ms
        for at_ms, then_ms in zip(instants, [*instants[1:], following_ms], strict=True):
            jobs = await self._jobs(schedule, definition, at_ms)
            if jobs is None:
                return now_ms + LOOK_MS
            if not await self._shelf.fire(schedule, at_ms, jobs, then_ms):
                self._refused[schedule.id] = (schedule.version, at_ms)
                return now_ms
            self._told.pop(schedule.id, None)
            self._publish(schedule, at_ms, jobs)
        return following_ms

    async def _jobs(self, schedule: Schedule, definition: Definition, at_ms: int) -> tuple[NewJob, ...] | None:
        """None: it cannot be made here and now, and is due as long as it is not."""
        try:
            return (await self._shelf.job_of(schedule, definition, at_ms),)
        except Rejected as exc:
            self._failed(schedule, at_ms, exc)
            return ()
        except Exception as exc:  # noqa: BLE001 - of somebody's middleware: other schedules have to go on
            self._failed(schedule, at_ms, exc)
            return None

    def _publish(self, schedule: Schedule, at_ms: int, jobs: tuple[NewJob, ...]) -> None:
        events = self._kernel.events
        for job in jobs:
            events.publish("job:enqueued", {"job_id": job.id, "queue": job.queue, "name": job.name})
            events.publish("schedule:fired", {"schedule_id": schedule.id, "job_id": job.id, "nominal_at_ms": at_ms})

    def _failed(self, schedule: Schedule, at_ms: int, error: Exception) -> None:
        if self._tell(schedule.id, "the job of a schedule cannot be made", error):
            data = {"schedule_id": schedule.id, "nominal_at_ms": at_ms, "error": repr(error)}
            self._kernel.events.publish("schedule:failed", data)

    def _tell(self, schedule_id: str, what: str, error: Exception | None) -> bool:
        """False: that is known."""
        text = f"{what}: {error!r}"
        if self._told.get(schedule_id) == text:
            return False
        self._told[schedule_id] = text
        log.warning(what, extra={"schedule_id": schedule_id, "error": "" if error is None else str(error)})
        return True

    def _forget(self, there: set[str]) -> None:
        for schedule_id in (self._told.keys() | self._refused.keys()) - there - {""}:
            self._told.pop(schedule_id, None)
            self._refused.pop(schedule_id, None)
