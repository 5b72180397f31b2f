"""Makes the jobs that are due, in every process that has the plugin, without a leader: the store makes each once."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from psyqueue.backend import NewJob, Schedule
from psyqueue.errors import NamespaceFrozen, Rejected, StoreError
from psyqueue.kernel.extension import Kernel
from psyqueue.plugins.scheduler.definition import Definition, decoded, encoded
from psyqueue.plugins.scheduler.shelf import Shelf

log: logging.Logger = logging.getLogger(__name__)

LOOK_MS: Final = 10_000
"""Schedules that other processes put or change are seen within this."""
LOOK_ALONE_MS: Final = 366 * 86_400_000
"""Where there are no others: looks in vain would make a month in a test long."""
PATIENCE_MS: Final = 1_000
"""A look waits so long for the jobs that it began to make; slow middleware is then left to itself."""


class Firing:
    """`work` is the service; `look_soon` wakes it. `declared` are put into the store before anything is made, once."""

    def __init__(self, kernel: Kernel, declared: dict[str, Definition]) -> None:
        self._kernel = kernel
        self._shelf = Shelf(kernel)
        self._declared = declared
        self._is_declared = False
        self._news = asyncio.Event()
        self._in_making: set[str] = set()
        self._told: dict[str, str] = {}
        """Per schedule what was last said about it: a trouble is told once, not at each look."""
        self._refused: dict[str, tuple[int, set[int]]] = {}
        """Per schedule its version, and the instants that the store refused to make a job for."""
        self._checked: dict[str, tuple[int, int, int]] = {}
        """Per schedule its version, its next instant, and a time at which that was the next one by its timing."""

    def look_soon(self) -> None:
        """Something was changed in this process."""
        self._news.set()

    async def work(self) -> None:
        """Look, make what is due, sleep until the next instant; for ever. A store that is away is only waited for."""
        async with asyncio.TaskGroup() as makers:
            while True:
                self._news.clear()
                wait_ms: float = LOOK_MS
                try:
                    await self._declare()
                    wait_ms = await self._look(makers)
                    self._told.pop("", None)
                except (StoreError, NamespaceFrozen) as exc:
                    self._wait_for_store("", exc)
                await self._kernel.wait(self._news, wait_ms)

    async def _declare(self) -> None:
        if self._is_declared:
            return
        there = {each.id: each for each in await self._shelf.all()} if self._declared else {}
        for schedule_id, definition in self._declared.items():
            found = there.get(schedule_id)
            if found is None or found.spec != encoded(definition):
                await self._shelf.put(schedule_id, definition, there)
        self._is_declared = True

    async def _look(self, makers: asyncio.TaskGroup) -> float:
        """Everything once. How long until the next instant, or until others may have changed something."""
        schedules, now_ms = await self._shelf.all(), await self._shelf.now_ms()
        soonest_ms = now_ms + (LOOK_ALONE_MS if self._kernel.is_alone else LOOK_MS)
        begun: list[asyncio.Task[int | None]] = []
        for schedule in schedules:
            next_at_ms = schedule.next_at_ms
            if schedule.paused or next_at_ms is None or schedule.id in self._in_making:
                continue
            if next_at_ms <= now_ms or self._is_too_late(schedule, next_at_ms, now_ms):
                self._in_making.add(schedule.id)
                begun.append(makers.create_task(self._make(schedule, next_at_ms, now_ms)))
            else:
                soonest_ms = min(soonest_ms, next_at_ms)
        self._forget({each.id for each in schedules})
        for following_ms in await self._following(begun):
            soonest_ms = min(soonest_ms, following_ms)
        return max(0, soonest_ms - now_ms)

    async def _following(self, begun: list[asyncio.Task[int | None]]) -> list[int]:
        """When to look again at those that are made; each other one wakes us when it is."""
        if begun:
            await asyncio.wait(begun, timeout=PATIENCE_MS / 1000)
        found: list[int] = []
        for task in begun:
            if not task.done():
                task.add_done_callback(lambda _: self.look_soon())
            elif (following_ms := task.result()) is not None:
                found.append(following_ms)
        return found

    def _is_too_late(self, schedule: Schedule, next_at_ms: int, now_ms: int) -> bool:
        """An earlier instant is next: the store's clock went back since it was written down, for example."""
        version, checked_ms, since_ms = self._checked.get(schedule.id, (0, 0, 0))
        if (version, checked_ms) == (schedule.version, next_at_ms) and since_ms <= now_ms:
            return False
        definition = decoded(schedule)
        if definition is None:
            return False
        following_ms = definition.timing.next_after(now_ms)
        if following_ms is not None and following_ms < next_at_ms:
            return True
        self._checked[schedule.id] = (schedule.version, next_at_ms, now_ms)
        return False

    async def _make(self, schedule: Schedule, next_at_ms: int, now_ms: int) -> int | None:
        """Make what is due of one schedule. The next instant to look at it; None: there is none."""
        try:
            return await self._catch_up(schedule, next_at_ms, now_ms)
        except (StoreError, NamespaceFrozen) as exc:
            self._wait_for_store(schedule.id, exc)
            return now_ms + LOOK_MS
        finally:
            self._in_making.discard(schedule.id)

    async def _catch_up(self, schedule: Schedule, next_at_ms: int, now_ms: int) -> int | None:
        definition = decoded(schedule)
        if definition is None:
            self._tell(schedule.id, "a schedule that this release cannot read is left to those that can", None)
            return None
        version, refused = self._refused.get(schedule.id, (schedule.version, set()))
        if version != schedule.version:
            refused = set()
        # Of the same version as then, they had their jobs before: of a backfill, for example.
        instants = [at_ms for at_ms in definition.due(next_at_ms, now_ms) if at_ms not in refused]
        following_ms = definition.timing.next_after(now_ms)
        if not instants:
            await self._shelf.pass_over(schedule, following_ms)
            return following_ms
        is_refused = False
        for at_ms, then_ms in zip(instants, [*instants[1:], following_ms], strict=True):
            made = await self._fire(schedule, definition, at_ms, then_ms)
            if made is None:
                return now_ms + LOOK_MS
            if not made:
                is_refused = True
                refused.add(at_ms)
                self._refused[schedule.id] = (schedule.version, refused)
        return now_ms if is_refused else following_ms

    async def _fire(self, schedule: Schedule, definition: Definition, at_ms: int, then_ms: int | None) -> bool | None:
        """False: the store refused, since it was made before or the schedule is another one by now.

        None: it cannot be made here and now, and is due as long as it is not.
        """
        try:
            jobs: tuple[NewJob, ...] = (await self._shelf.job_of(schedule, definition, at_ms),)
        except Rejected as exc:
            self._failed(schedule, at_ms, exc)
            jobs = ()
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._failed(schedule, at_ms, exc)  # of something that the middleware waited for: nobody means us
            return None
        except Exception as exc:  # noqa: BLE001 - of somebody's middleware: other schedules have to go on
            self._failed(schedule, at_ms, exc)
            return None
        try:
            if not await self._shelf.fire(schedule, at_ms, jobs, then_ms):
                return False
        except (StoreError, NamespaceFrozen):
            raise
        except Exception as exc:  # noqa: BLE001 - this job is refused, for needs that middleware gave it for example
            self._failed(schedule, at_ms, exc)
            return None
        self._told.pop(schedule.id, None)
        return True

    def _failed(self, schedule: Schedule, at_ms: int, error: BaseException) -> None:
        if self._tell(schedule.id, "the job of a schedule cannot be made", error):
            data = {"schedule_id": schedule.id, "nominal_at_ms": at_ms, "error": repr(error)}
            self._kernel.events.publish("schedule:failed", data)

    def _wait_for_store(self, schedule_id: str, error: Exception) -> None:
        self._tell(schedule_id, "schedules have to wait for the store", error)

    def _tell(self, schedule_id: str, what: str, error: BaseException | None) -> bool:
        """False: that is known."""
        text = f"{what}: {error!r}"
        if self._told.get(schedule_id) == text:
            return False
        self._told[schedule_id] = text
        log.warning(what, extra={"schedule_id": schedule_id, "error": "" if error is None else str(error)})
        return True

    def _forget(self, there: set[str]) -> None:
        for about in (self._told, self._refused, self._checked):
            for schedule_id in about.keys() - there - {""}:
                about.pop(schedule_id, None)
