"""`q.use(Schedules())`: work that repeats, declared in code or put at run time, kept in the store."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, get_args

from msgspec.structs import replace

from psyqueue.backend import Schedule
from psyqueue.clock import Duration, to_at_ms, to_datetime
from psyqueue.errors import ConfigError, InvalidOption, InvalidState, LifecycleError
from psyqueue.ids import new_id
from psyqueue.job import name_problem
from psyqueue.kernel.extension import Facade, Kernel, blocking
from psyqueue.plugins.scheduler.definition import CATCH_UP_MAX, Definition, Missed, ScheduleView, decoded, view_of
from psyqueue.plugins.scheduler.firing import Firing
from psyqueue.plugins.scheduler.shelf import Shelf
from psyqueue.plugins.scheduler.timing import read_timing


class Schedules:
    """Work that repeats. Add it to a queue with `use`, then `add` schedules; any process that has it makes the jobs.

    Each instant of a schedule makes one job, however many processes there are, and whatever becomes of them. With
    `makes_jobs=False` this process changes schedules and leaves it to others to make the jobs.
    """

    name = "scheduler"

    def __init__(self, *, makes_jobs: bool = True) -> None:
        self._makes_jobs = makes_jobs
        self._declared: dict[str, Definition] = {}
        self._kernel: Kernel | None = None
        self._firing: Firing | None = None
        """From the start of the queue to its stop."""

    # ── the plugin ────────────────────────────────────────────────────────────────────────────────────────────────────
    def init(self, kernel: Kernel) -> None:
        """Called by `use`. Raises ConfigError for a second queue."""
        if self._kernel is not None:
            raise ConfigError("these Schedules belong to another queue: make new ones for this")
        self._kernel = kernel
        kernel.expose("schedules", self)
        if self._makes_jobs:
            kernel.service(self._work)

    def start(self) -> None:
        """Called when the queue starts."""
        self._firing = Firing(self._door(), self._declared)

    def stop(self) -> None:
        """Called when it stops."""
        self._firing = None

    async def _work(self) -> None:
        assert self._firing is not None
        await self._firing.work()

    # ── declare ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def add(
        self,
        schedule_id: str,
        name_or_call: Any,
        payload: Any = None,
        /,
        *,
        cron: str | None = None,
        every: Duration | None = None,
        tz: str = "UTC",
        missed: Missed = "latest",
        **options: Any,
    ) -> None:
        """Declare a schedule: the store is told when the queue starts. docs/schedules.md describes the options.

        Raises InvalidOption, PayloadError, TooLarge; ConfigError for an id that is taken, or before `use`;
        LifecycleError once the queue has started.
        """
        if self._firing is not None:
            raise LifecycleError("add() after start() changes nothing any more; await put(...) does")
        schedule_id = _read_id(schedule_id)
        if schedule_id in self._declared:
            raise ConfigError(f"schedule {schedule_id!r} is declared already; give the second one another id")
        definition = self._definition(
            (name_or_call, payload, options), cron=cron, every=every, tz=tz, missed=missed, is_declared=True
        )
        self._declared[schedule_id] = definition

    # ── change ────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def put(
        self,
        schedule_id: str,
        name_or_call: Any,
        payload: Any = None,
        /,
        *,
        cron: str | None = None,
        every: Duration | None = None,
        tz: str = "UTC",
        missed: Missed = "latest",
        **options: Any,
    ) -> ScheduleView:
        """Make a schedule, or make it so; one that is there keeps its pause, and its next instant with its timing.

        Raises as `add` of its arguments, NotStarted, StoreError, NamespaceFrozen.
        """
        definition = self._definition(
            (name_or_call, payload, options), cron=cron, every=every, tz=tz, missed=missed, is_declared=False
        )
        made = await self._shelf().put(_read_id(schedule_id), definition)
        self._look_soon()
        return view_of(made, definition)

    async def pause(self, schedule_id: str) -> ScheduleView:
        """Make nothing more until `resume`. Jobs that were made stay. Raises ScheduleNotFound, StoreError."""

        def paused(found: Schedule) -> Schedule:
            _readable(found)
            return replace(found, paused=True)

        return _shown(await self._shelf().amend(schedule_id, paused))

    async def resume(self, schedule_id: str) -> ScheduleView:
        """Undo `pause`: it goes on with the next instant, and those of the pause are left out.

        Raises ScheduleNotFound, StoreError.
        """
        shelf = self._shelf()
        now_ms = await shelf.now_ms()

        def resumed(found: Schedule) -> Schedule:
            timing = _readable(found).timing
            return replace(found, paused=False, next_at_ms=timing.next_after(now_ms)) if found.paused else found

        amended = await shelf.amend(schedule_id, resumed)
        self._look_soon()
        return _shown(amended)

    async def remove(self, schedule_id: str) -> bool:
        """Delete it; its jobs stay. False: it is not there. What code declares comes back with the next start of it.

        Raises StoreError.
        """
        return await self._shelf().remove(schedule_id)

    async def run(self, schedule_id: str) -> str:
        """Make one job of it now, beside its instants, also while it is paused. The id of the job.

        Raises ScheduleNotFound, StoreError, and what an enqueue raises.
        """
        shelf, kernel = self._shelf(), self._door()
        schedule = await shelf.require(schedule_id)
        job = await kernel.job_of(_readable(schedule).plan, id=new_id(), schedule_id=schedule.id)
        (enqueued,) = await kernel.write((job,))
        return enqueued.job_id

    async def backfill(self, schedule_id: str, *, after: datetime, before: datetime) -> int:
        """Make the jobs of the past instants in `after` ≤ instant < `before` that have none yet. How many.

        Raises ScheduleNotFound, InvalidOption for more than 1,000 instants, StoreError, what an enqueue raises; then
        those before are made, and a repeat goes on.
        """
        after_ms, before_ms = to_at_ms("after", after), to_at_ms("before", before)
        shelf = self._shelf()
        schedule, now_ms = await shelf.require(schedule_id), await shelf.now_ms()
        definition = _readable(schedule)
        instants = definition.timing.first_in(after_ms - 1, min(before_ms - 1, now_ms), CATCH_UP_MAX + 1)
        if len(instants) > CATCH_UP_MAX:
            parted = to_datetime(instants[CATCH_UP_MAX]).isoformat()
            way_out = f"Do it in parts: before {parted} there are {CATCH_UP_MAX}"
            raise InvalidOption("before", before, f"leaves more than {CATCH_UP_MAX} instants", way_out)
        made = 0
        for at_ms in instants:
            job = await shelf.job_of(schedule, definition, at_ms)
            while not (is_made := await shelf.fire(schedule, at_ms, (job,), schedule.next_at_ms)):
                last_version, schedule = schedule.version, await shelf.require(schedule_id)
                if schedule.version == last_version:
                    break  # it has its job
            made += is_made
        return made

    # ── look ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def list(self) -> list[ScheduleView]:
        """All that this release can read, by id. Raises NotStarted, StoreError."""
        read = [(each, decoded(each)) for each in await self._shelf().all()]
        return [view_of(schedule, definition) for schedule, definition in read if definition is not None]

    async def get(self, schedule_id: str) -> ScheduleView | None:
        """None if there is none. Raises NotStarted, StoreError, InvalidState for one of a later release."""
        found = await self._shelf().find(schedule_id)
        return None if found is None else _shown(found)

    @property
    def sync(self) -> SyncSchedules:
        """The same verbs for programs without asyncio, as calls that block: `schedules.sync.put(...)`.

        The first call starts the queue, as `q.sync` does. Raises ConfigError before `use`.
        """
        return SyncSchedules(self._door().portal, self)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _door(self) -> Kernel:
        if self._kernel is None:
            raise ConfigError("these Schedules belong to no queue yet: q.use(schedules) first")
        return self._kernel

    def _shelf(self) -> Shelf:
        return Shelf(self._door())

    def _look_soon(self) -> None:
        if self._firing is not None:
            self._firing.look_soon()

    def _definition(
        self,
        what: tuple[Any, Any, dict[str, Any]],
        *,
        cron: str | None,
        every: Duration | None,
        tz: str,
        missed: Any,
        is_declared: bool,
    ) -> Definition:
        if missed not in get_args(Missed):
            raise InvalidOption("missed", missed, f"is none of {', '.join(get_args(Missed))}")
        timing = read_timing(cron=cron, every=every, tz=tz)
        return Definition(plan=self._door().plan(*what), timing=timing, missed=missed, is_declared=is_declared)


class SyncSchedules(Facade[Schedules]):
    """As Schedules, with methods that block."""

    __slots__ = ()

    put: Final = blocking(Schedules.put)
    pause: Final = blocking(Schedules.pause)
    resume: Final = blocking(Schedules.resume)
    remove: Final = blocking(Schedules.remove)
    run: Final = blocking(Schedules.run)
    backfill: Final = blocking(Schedules.backfill)
    list: Final = blocking(Schedules.list)
    get: Final = blocking(Schedules.get)


def upcoming(
    *, cron: str | None = None, every: Duration | None = None, tz: str = "UTC", after: datetime, count: int = 5
) -> list[datetime]:
    """The next `count` instants after `after`, in UTC. Raises InvalidOption."""
    if type(count) is not int or not 1 <= count <= CATCH_UP_MAX:
        raise InvalidOption("count", count, f"is no whole number from 1 to {CATCH_UP_MAX}")
    timing, at_ms = read_timing(cron=cron, every=every, tz=tz), to_at_ms("after", after)
    found: list[datetime] = []
    while len(found) < count and (next_ms := timing.next_after(at_ms)) is not None:
        at_ms = next_ms
        found.append(to_datetime(at_ms))
    return found


def _read_id(given: Any) -> str:
    problem = name_problem(given)
    if problem:
        raise InvalidOption("schedule_id", given, problem)
    return str.__str__(given)  # of a member of an enumeration its value, as names are read elsewhere


def _readable(schedule: Schedule) -> Definition:
    definition = decoded(schedule)
    if definition is None:
        raise InvalidState(f"schedule {schedule.id!r} was written by a later release of psyqueue: use that one")
    return definition


def _shown(schedule: Schedule) -> ScheduleView:
    return view_of(schedule, _readable(schedule))
