"""Schedules on every store: several processes make the jobs, and each instant has one."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from psyqueue import JobView, PsyQueue
from psyqueue.plugins import Schedules
from psyqueue.plugins.scheduler.firing import Firing

PROCESSES = 3


async def work(n: int = 0) -> None: ...


@pytest.fixture
def store(request):
    """Those that several processes can share."""
    return request.param


def pytest_generate_tests(metafunc):
    if "store" in metafunc.fixturenames:
        metafunc.parametrize("store", ["sqlite", "redis", "postgres"], indirect=True)


class Process:
    """What stands for one: a queue of its own on the store, whose looks are made by hand."""

    def __init__(self, q: PsyQueue) -> None:
        self.schedules = Schedules(makes_jobs=False)
        self.q = q.use(self.schedules)
        self.handler = q.handle("work", work, queue="w")
        self.fired: list[int] = []
        q.events.on("schedule:fired", lambda event: self.fired.append(event.data["nominal_at_ms"]))

    def opened(self) -> Firing:
        return Firing(self.schedules._door(), {})


async def looks(firing: Firing) -> None:
    """Until nothing is due."""
    async with asyncio.TaskGroup() as makers:
        while await firing._look(makers) == 0:
            pass


async def started(make, stack: AsyncExitStack, *, test_clock: bool) -> list[Process]:
    processes = [Process(make(test_clock=test_clock)) for _ in range(PROCESSES)]
    for process in processes:
        await stack.enter_async_context(process.q)
    return processes


async def jobs_of(q: PsyQueue) -> list[JobView]:
    found: list[JobView] = []
    cursor: str | None = None
    while True:
        page = await q.jobs(queue="w", limit=500, cursor=cursor)
        found += page.items
        if (cursor := page.cursor) is None:
            return found


@pytest.mark.parametrize("missed", ["all", "latest"])
async def test_each_instant_has_one_job_however_many_look(make, missed):
    async with AsyncExitStack() as stack:
        processes = await started(make, stack, test_clock=True)
        first = processes[0]
        for name in ("a", "b"):
            await first.schedules.put(name, first.handler.build(1), every="10s", missed=missed)
        backend = first.q.get_exposed("backend")
        began_ms = (await backend.info()).now_ms
        firings = [process.opened() for process in processes]
        for _ in range(10):
            await backend.advance_clock(30_000)
            await asyncio.gather(*(looks(firing) for firing in firings))
        jobs = await jobs_of(first.q)
        expected = 60 if missed == "all" else 20
        assert Counter(job.schedule_id for job in jobs) == {"a": expected // 2, "b": expected // 2}
        fired = Counter(at_ms for process in processes for at_ms in process.fired)
        assert set(fired.values()) == {2}  # one of each schedule
        steps = 10_000 if missed == "all" else 30_000
        last_ms = began_ms // 10_000 * 10_000
        assert sorted(fired) == [last_ms + steps * step for step in range(1, expected // 2 + 1)] or missed == "latest"
        assert len({job.id for job in jobs}) == len(jobs) == expected


async def test_who_changes_a_schedule_at_the_same_time_has_his_way(make):
    async with AsyncExitStack() as stack:
        one, two, three = await started(make, stack, test_clock=True)
        await one.schedules.put("s", one.handler.build(0), every="1h")
        for number in range(1, 6):
            await asyncio.gather(
                one.schedules.put("s", one.handler.build(number), every="1h"), two.schedules.pause("s")
            )
            found = await three.schedules.get("s")
            assert found is not None
            assert (found.payload, found.is_paused) == ({"n": number}, True)
            await two.schedules.resume("s")


async def test_a_change_in_the_moment_of_an_instant_loses_nothing(make):
    """Whoever makes the job meets a schedule that was written since it was read: it looks again."""
    async with AsyncExitStack() as stack:
        one, two, _ = await started(make, stack, test_clock=True)
        backend = one.q.get_exposed("backend")
        await one.schedules.put("s", one.handler.build(0), every="1m", missed="all")
        firing = one.opened()
        shelf = firing._shelf
        fire, met = shelf.fire, list[bool]()

        async def meets_a_change(schedule, at_ms, jobs, next_at_ms):
            await two.schedules.put("s", two.handler.build(len(met) + 1), every="1m", missed="all")
            done = await fire(schedule, at_ms, jobs, next_at_ms)
            met.append(done)
            shelf.fire = fire  # type: ignore[method-assign]
            return done

        for _ in range(3):
            await backend.advance_clock(60_000)
            shelf.fire = meets_a_change  # type: ignore[method-assign]
            await looks(firing)
        assert met[0] is False
        assert len(await jobs_of(one.q)) == 3


async def test_instants_that_were_backfilled_while_they_were_due_hold_nothing_up(make):
    """Nobody looked for a while, and an operator backfilled some of it: who looks then goes on with the rest."""
    async with AsyncExitStack() as stack:
        one, two, _ = await started(make, stack, test_clock=True)
        backend = one.q.get_exposed("backend")
        made = await one.schedules.put("s", one.handler.build(1), every="10s", missed="all")
        assert made.next_at is not None
        await backend.advance_clock(100_000)
        some = {"after": made.next_at + timedelta(seconds=20), "before": made.next_at + timedelta(seconds=60)}
        assert await two.schedules.backfill("s", **some) == 4
        firing = one.opened()
        async with asyncio.TaskGroup() as makers:
            waits = [await firing._look(makers) for _ in range(3)]
        assert waits[-1] > 0
        instants = sorted(job.nominal_at for job in await jobs_of(one.q) if job.nominal_at is not None)
        assert instants == [made.next_at + timedelta(seconds=10 * step) for step in range(10)]


async def test_a_backfill_goes_on_when_somebody_changes_the_schedule(make):
    async with AsyncExitStack() as stack:
        one, two, _ = await started(make, stack, test_clock=True)
        await one.schedules.put("s", one.handler.build(1), every="10s")
        (backend, now) = (one.q.get_exposed("backend"), datetime.now(UTC))
        fire, calls = backend.fire, list[int]()

        async def meets_changes(*given):
            calls.append(1)
            if len(calls) in (2, 4):
                await (two.schedules.pause("s") if len(calls) == 2 else two.schedules.resume("s"))
            return await fire(*given)

        backend.fire = meets_changes
        assert await one.schedules.backfill("s", after=now - timedelta(seconds=60), before=now) == 6
        assert len(await jobs_of(one.q)) == 6


async def test_a_clock_that_goes_back_does_not_silence_a_schedule(make):
    """A store whose clock was a year ahead for a while; no instant has a second job."""
    async with AsyncExitStack() as stack:
        (one, *_) = await started(make, stack, test_clock=True)
        backend = one.q.get_exposed("backend")
        await one.schedules.put("s", one.handler.build(1), every="10s")
        firing = one.opened()
        for step_ms in (366 * 86_400_000, -366 * 86_400_000, 10_000, 10_000, -15_000, 10_000, 10_000, 10_000):
            await backend.advance_clock(step_ms)
            await looks(firing)
        instants = Counter(job.nominal_at for job in await jobs_of(one.q) if job.nominal_at is not None)
        assert set(instants.values()) == {1}
        *near, far = sorted(instants)
        assert far - near[0] > timedelta(days=360)
        assert [each - near[0] for each in near] == [timedelta(seconds=10 * step) for step in range(len(near))]
        assert len(near) >= 3


async def test_a_schedule_made_anew_does_not_repeat_what_the_old_one_made(make):
    async with AsyncExitStack() as stack:
        (one, *_) = await started(make, stack, test_clock=True)
        backend = one.q.get_exposed("backend")
        firing = one.opened()
        for _ in range(2):
            await one.schedules.put("s", one.handler.build(1), every="10s")
            await backend.advance_clock(10_000)
            await looks(firing)
            await one.schedules.remove("s")
        assert len(await jobs_of(one.q)) == 2
        made = await one.schedules.put("s", one.handler.build(1), every="10s")
        assert made.next_at is not None
        past = {"after": made.next_at - timedelta(seconds=30), "before": made.next_at}
        assert await one.schedules.backfill("s", **past) == 1
        assert len(await jobs_of(one.q)) == 3


async def test_declared_schedules_are_made_in_real_time_by_workers(make):
    """The whole way, once: three processes start, and jobs run."""
    ran: list[int] = []
    enough = asyncio.Event()

    async def tick(n: int) -> None:
        ran.append(n)
        if len(ran) >= 3:
            enough.set()

    async with AsyncExitStack() as stack:
        for q in (make() for _ in range(PROCESSES)):
            schedules = Schedules()
            q.use(schedules)
            handler = q.handle("tick", tick, queue="w")
            schedules.add("every second", handler.build(7), every="1s")
            await stack.enter_async_context(q)
        q.start_worker("w")
        await asyncio.wait_for(enough.wait(), 60)
        # A job that ends while it is listed may be listed twice.
        instants = Counter(job_id[:13] for job_id in {job.id for job in await jobs_of(q)})
        assert set(instants.values()) == {1}
        assert set(ran) == {7}
