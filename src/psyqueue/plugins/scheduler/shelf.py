"""The schedules of a store: read, and changed by compare and set, so that two who change one both have their way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from psyqueue.backend import NewJob, Schedule
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.backend.compose import every_page
from psyqueue.errors import ScheduleNotFound, StateConflict
from psyqueue.ids import named_id
from psyqueue.kernel.extension import Kernel
from psyqueue.plugins.scheduler.definition import Definition, decoded, encoded

_TRIES: Final = 20
"""Each one that fails means that somebody else changed the schedule: nobody does so without end."""


class Shelf:
    """Between the plugin and its door. All of it raises StoreError, and what changes something NamespaceFrozen."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    async def now_ms(self) -> int:
        """Of the store."""
        return (await self._kernel.store.info()).now_ms

    async def all(self) -> list[Schedule]:
        """By id. Each page is a moment of its own."""
        return await every_page(lambda cursor: self._kernel.store.list_schedules(cursor, ITEMS_MAX))

    async def find(self, schedule_id: str) -> Schedule | None:
        """None if there is none."""
        return next((each for each in await self.all() if each.id == schedule_id), None)

    async def require(self, schedule_id: str) -> Schedule:
        """Raises ScheduleNotFound."""
        found = await self.find(schedule_id)
        if found is None:
            raise ScheduleNotFound(schedule_id)
        return found

    async def put(
        self, schedule_id: str, definition: Definition, seen: Mapping[str, Schedule] | None = None
    ) -> Schedule:
        """Make it, or make it so. Where its timing is as before its next instant stays, and a pause stays.

        `seen`: all there are, read a moment ago; who puts many need not read all of them for each.
        """
        spec, now_ms = encoded(definition), await self.now_ms()

        def wanted(found: Schedule | None) -> Schedule | None:
            if found is not None and found.spec == spec:
                return None
            before = None if found is None else decoded(found)
            if found is not None and before is not None and before.timing == definition.timing:
                return replace(found, spec=spec)
            base = found or Schedule(id=schedule_id, spec=spec)
            return replace(base, spec=spec, next_at_ms=definition.timing.next_after(now_ms))

        made = await self._change(schedule_id, wanted, seen=seen)
        assert made is not None
        return made

    async def amend(self, schedule_id: str, to: Callable[[Schedule], Schedule]) -> Schedule:
        """What `to` makes of it. Raises ScheduleNotFound."""

        def wanted(found: Schedule | None) -> Schedule | None:
            new = None if found is None else to(found)
            return None if new == found else new

        amended = await self._change(schedule_id, wanted)
        if amended is None:
            raise ScheduleNotFound(schedule_id)
        return amended

    async def remove(self, schedule_id: str) -> bool:
        """False if it is not there."""
        return await self._change(schedule_id, lambda found: found, delete=True) is not None

    async def pass_over(self, schedule: Schedule, next_at_ms: int | None) -> bool:
        """Go on with this instant, without a job for those before. False: it was changed since it was read."""
        store, wanted = self._kernel.store, replace(schedule, next_at_ms=next_at_ms)
        try:
            await self._kernel.operate(lambda op: store.put_schedule(op, wanted))
        except StateConflict:
            return False
        return True

    async def fire(self, schedule: Schedule, at_ms: int, jobs: Sequence[NewJob], next_at_ms: int | None) -> bool:
        """The jobs of one instant, once, told. False: it had them before, or the schedule is another one by now."""
        store = self._kernel.store
        is_fired = await self._kernel.operate(lambda op: store.fire(op, schedule, at_ms, jobs, next_at_ms))
        if is_fired:
            await self._tell(schedule, at_ms, jobs)
        return is_fired

    async def _tell(self, schedule: Schedule, at_ms: int, jobs: Sequence[NewJob]) -> None:
        events = self._kernel.events
        for job in jobs:
            if (job.unique or job.idempotency) and (await self._kernel.store.get((job.id,)))[0] is None:
                continue  # somebody else has its key: the store made none
            events.publish("job:enqueued", {"job_id": job.id, "queue": job.queue, "name": job.name})
            events.publish("schedule:fired", {"schedule_id": schedule.id, "job_id": job.id, "nominal_at_ms": at_ms})

    async def job_of(self, schedule: Schedule, definition: Definition, at_ms: int) -> NewJob:
        """The same id whoever makes it. The store keeps it until the instant, also where our clock is ahead of its own.

        Raises what the enqueue middleware does.
        """
        job_id = named_id(at_ms, "schedule", schedule.id)
        job = await self._kernel.job_of(definition.plan, id=job_id, schedule_id=schedule.id, nominal_at_ms=at_ms)
        return replace(job, run_at_ms=max(at_ms, job.run_at_ms or 0))

    async def _change(
        self,
        schedule_id: str,
        wanted: Callable[[Schedule | None], Schedule | None],
        *,
        delete: bool = False,
        seen: Mapping[str, Schedule] | None = None,
    ) -> Schedule | None:
        """As it is then, once more after each conflict. `wanted` gives None for "as it is".

        Raises StateConflict where that does not end.
        """
        store = self._kernel.store
        conflict: StateConflict | None = None
        for _ in range(_TRIES):
            found = await self.find(schedule_id) if seen is None else seen.get(schedule_id)
            new = wanted(found)
            if new is None:
                return found
            try:
                return await self._kernel.operate(functools.partial(store.put_schedule, schedule=new, delete=delete))
            except StateConflict as exc:
                conflict, seen = exc, None
        assert conflict is not None
        raise conflict
