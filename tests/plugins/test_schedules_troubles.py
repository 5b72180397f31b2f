"""What may go wrong around schedules: middleware that hangs or breaks, services that start again, forks, mistakes."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from typing import Any

import pytest

from psyqueue import ForkedProcess, InvalidOption, LifecycleError, NotStarted, PsyQueue
from psyqueue.backends import memory
from psyqueue.plugins import Schedules, upcoming
from psyqueue.plugins.scheduler.shelf import Shelf

NIGHT = datetime(2026, 3, 2, tzinfo=UTC)


async def work(n: int = 0) -> None: ...


# ── middleware ────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_middleware_that_hangs_leaves_other_schedules_alone(q, schedules):
    begun, goes_on = list[str](), asyncio.Event()

    async def hang(ctx, call_next):
        if ctx.jobs[0].name == "first":
            begun.append("first")
            await goes_on.wait()
        return await call_next()

    q.pipeline("enqueue", hang)
    schedules.add("a", q.handle("first", work), every="1h")
    schedules.add("b", q.handle("second", work), every="1h")
    async with q.testing(now=NIGHT) as t:
        await t.advance("210m")
        assert [job.nominal_at.hour for job in t.enqueued("second")] == [1, 2, 3]
        assert (begun, t.enqueued("first")) == (["first"], [])
        goes_on.set()
        await t.advance("1m")
        # What it began for is made at last, and then the latest of what was missed.
        assert sorted(job.nominal_at.hour for job in t.enqueued("first")) == [1, 3]


@pytest.mark.parametrize("trouble", [asyncio.CancelledError(), ValueError("odd"), LookupError("gone")])
async def test_whatever_middleware_raises_the_service_goes_on(q, schedules, trouble):
    is_broken = [True]
    told: list[str] = []

    async def breaks(ctx, call_next):
        if is_broken[0] and ctx.jobs[0].name == "first":
            raise trouble
        return await call_next()

    q.pipeline("enqueue", breaks)
    schedules.add("a", q.handle("first", work), every="1h")
    schedules.add("b", q.handle("second", work), every="1h")
    async with q.testing(now=NIGHT) as t:
        q.events.on("schedule:failed", lambda event: told.append(event.data["error"]))
        await t.advance("150m")
        assert (len(t.enqueued("first")), len(t.enqueued("second")), told) == (0, 2, [repr(trouble)])
        is_broken[0] = False
        await t.advance("1m")
        assert [job.nominal_at.hour for job in t.enqueued("first")] == [2]


async def test_a_job_that_the_store_refuses_leaves_other_schedules_alone(q, schedules):
    async def needs(ctx, call_next):
        if ctx.jobs[0].name == "first":
            ctx.jobs[0].options["depends_on"] = ["nobody"]
        return await call_next()

    told: list[str] = []
    q.pipeline("enqueue", needs)
    schedules.add("a", q.handle("first", work), every="1h")
    schedules.add("b", q.handle("second", work), every="1h")
    async with q.testing(now=NIGHT) as t:
        q.events.on("schedule:failed", lambda event: told.append(event.data["error"]))
        q.events.on("service:error", lambda event: told.append(event.data["service"]))
        await t.advance("3h")
        assert (len(t.enqueued("first")), len(t.enqueued("second"))) == (0, 3)
    assert [each.startswith("UnknownDependency") for each in told] == [True] * 3  # the job is another one each hour


# ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_service_that_starts_again_does_not_undo_what_others_changed_since(q, schedules, monkeypatch):
    """Who starts last has told the store last: a process of the old release is not to tell it again days later."""
    handler = q.handle("work", work)
    schedules.add("s", handler, every="1h")
    failures: list[str] = []
    async with q.testing(now=NIGHT) as t:
        q.events.on("service:error", lambda event: failures.append(event.data["error"]))
        await t.advance("1m")
        await schedules.put("s", handler, every="2h")
        firing = schedules._firing
        assert firing is not None
        look = firing._look

        async def breaks(makers):
            monkeypatch.setattr(firing, "_look", look)
            raise RuntimeError("a defect")

        monkeypatch.setattr(firing, "_look", breaks)
        await t.advance("4h")
        view = await schedules.get("s")
        assert view is not None
        assert (len(failures), view.every.total_seconds()) == (1, 7_200)
        assert [job.nominal_at.hour for job in t.enqueued("work")] == [2, 4]


async def test_the_same_schedules_are_told_to_each_test(q, schedules):
    schedules.add("s", q.handle("work", work), every="1h")
    for _ in range(2):
        async with q.testing(now=NIGHT) as t:
            await t.advance("2h")
            assert len(t.enqueued("work")) == 2


async def test_declaring_many_reads_all_of_them_once(q, schedules, monkeypatch):
    """Once for each would be ten thousand times ten thousand."""
    handler, reads, read = q.handle("work", work), list[None](), Shelf.all

    async def counted(shelf):
        reads.append(None)
        return await read(shelf)

    monkeypatch.setattr(Shelf, "all", counted)
    for number in range(20):
        schedules.add(f"s{number}", handler, every="1h")
    async with q.testing(now=NIGHT) as t:
        await t.advance("1m")
        assert len(reads) <= 2  # and a look
        assert len(await schedules.list()) == 20


async def test_a_child_of_a_fork_does_not_use_its_parents_store(q, schedules):
    await q.start()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        told = b"nothing was raised"
        try:
            schedules.list().send(None)
        except ForkedProcess as exc:
            told = exc.message.encode()
        except BaseException as exc:  # noqa: BLE001 - the parent is told
            told = repr(exc).encode()
        finally:
            os.write(writing, told)
            os._exit(0)
    await asyncio.to_thread(os.waitpid, pid, 0)
    assert b"was started before this process was forked" in os.read(reading, 1_000)
    os.close(reading)
    os.close(writing)
    await q.stop()


async def test_another_event_loop_is_told_where_it_is_wrong(q, schedules):
    await q.start()

    def elsewhere() -> str:
        with pytest.raises(LifecycleError) as caught:
            asyncio.run(schedules.list())
        return caught.value.message

    assert "belongs to the event loop that started it" in await asyncio.to_thread(elsewhere)
    await q.stop()


# ── mistakes ──────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_before_the_start_there_is_no_store(q, schedules):
    handler = q.handle("work", work)
    for call in (schedules.list(), schedules.pause("s"), schedules.put("s", handler, every="1h")):
        with pytest.raises(NotStarted, match=r"await q.start\(\)"):
            await call


@pytest.mark.parametrize("schedule_id", [None, 7, b"s", ["s"], {}, "", "a\nb", "x" * 201, "\ud800"])
async def test_an_id_is_a_name(q, schedules, schedule_id):
    handler = q.handle("work", work)
    with pytest.raises(InvalidOption, match="schedule_id="):
        schedules.add(schedule_id, handler, every="1h")
    async with q.testing():
        with pytest.raises(InvalidOption, match="schedule_id="):
            await schedules.put(schedule_id, handler, every="1h")


@pytest.mark.parametrize("schedule_id", ["a:b*c?[x]", "日程 🗓", "x" * 200, "'; drop table schedule --", "%s"])
async def test_any_name_is_an_id(q, schedules, schedule_id):
    schedules.add(schedule_id, q.handle("work", work), every="1h")
    async with q.testing(now=NIGHT) as t:
        await t.advance("1h")
        assert [job.schedule_id for job in t.enqueued("work")] == [schedule_id]


def test_options_that_do_not_fit_together_are_refused_at_once(q, schedules):
    """And not at each job, in a log that nobody reads."""
    with pytest.raises(InvalidOption, match="has no unique key to conflict on"):
        schedules.add("s", q.handle("work", work), every="1h", on_conflict="replace")


@pytest.mark.parametrize("name_or_call", [lambda: None, 7, None, b"work", work])
def test_what_is_no_job_is_refused(q, schedules, name_or_call):
    q.handle("work", work)
    with pytest.raises(InvalidOption, match="name="):
        schedules.add("s", name_or_call, every="1h")


@pytest.mark.parametrize("count", [0, -1, 1_001, True, 2.0, "5", None])
def test_upcoming_counts_in_whole_numbers(count: Any):
    with pytest.raises(InvalidOption, match="is no whole number from 1 to 1000"):
        upcoming(every="5m", after=NIGHT, count=count)


async def test_two_queues_have_schedules_of_their_own():
    made: list[list[str | None]] = []
    for name in ("one", "two"):
        schedules = Schedules()
        q = PsyQueue(name=name).use(memory()).use(schedules)
        schedules.add(name, q.handle("work", work), every="1h")
        async with q.testing(now=NIGHT) as t:
            await t.advance("1h")
            made.append([job.schedule_id for job in t.enqueued("work")])
    assert made == [["one"], ["two"]]
