"""Schedules in the time of a test: what they make, when, and what an operator can do."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import pytest

from psyqueue import (
    ConfigError,
    Context,
    InvalidOption,
    InvalidState,
    LifecycleError,
    PayloadError,
    PsyQueue,
    QueueFull,
    Rejected,
    ScheduleNotFound,
)
from psyqueue.backend import Op, Schedule
from psyqueue.backends import memory
from psyqueue.plugins import Schedules, SyncSchedules
from psyqueue.plugins.scheduler.definition import Definition, decoded

NIGHT = datetime(2026, 3, 2, tzinfo=UTC)
"""A Monday."""


async def work(n: int = 0) -> None: ...


def at(day: int, hour: int = 0, minute: int = 0, second: int = 0) -> datetime:
    return datetime(2026, 3, day, hour, minute, second, tzinfo=UTC)


def instants(jobs) -> list[str]:
    return [job.created_at.strftime("%d %H:%M:%S") for job in jobs]


# ── what is declared ──────────────────────────────────────────────────────────────────────────────────────────────────
async def test_jobs_made_by_hand_are_told_as_any_other(q, schedules):
    q.handle("report", work, queue="office")
    schedules.add("daily", "report", every="1d")
    told: list[str] = []
    q.events.on("*", lambda event: told.append(event.type))
    async with q.testing(now=NIGHT):
        await schedules.run("daily")
        assert [each for each in told if each != "kernel:started"] == ["job:enqueued"]
        told.clear()
        made = await schedules.backfill("daily", after=NIGHT - timedelta(days=2), before=NIGHT)
        assert made == 2
        assert told == ["job:enqueued", "schedule:fired"] * 2


async def test_each_instant_makes_one_job_that_knows_its_schedule(q, schedules):
    report = q.handle("report", work, queue="office", max_retries=7)
    schedules.add("morning", report.build(3), cron="0 7 * * mon-fri", tz="Europe/Rome", priority=2, tenant="acme")
    async with q.testing(now=NIGHT) as t:
        await t.advance("7d")
        jobs = t.enqueued("report")
    assert instants(jobs) == [f"0{day} 06:00:00" for day in range(2, 7)]
    assert {(job.schedule_id, job.queue, job.priority, job.max_retries, job.tenant_id) for job in jobs} == {
        ("morning", "office", 2, 7, "acme")
    }
    assert [job.payload for job in jobs] == [{"n": 3}] * 5
    assert {job.status for job in jobs} == {"completed"}


async def test_a_handler_stands_for_its_call_and_a_name_for_one_of_another_process(q, schedules):
    schedules.add("a", q.handle("here", work), every="1h")
    schedules.add("b", "elsewhere", {"city": "Rome"}, every="1h", queue="far")
    async with q.testing(now=NIGHT) as t:
        await t.advance("90m")
        assert [job.payload for job in t.enqueued("here")] == [{}]
        (job,) = t.enqueued("elsewhere")
    assert (job.queue, job.payload) == ("far", {"city": "Rome"})


async def test_a_unique_key_keeps_runs_from_overlapping(q, schedules):
    @q.handle("slow", unique=True)
    async def slow() -> None:
        await asyncio.sleep(150)

    told: list[str] = []
    schedules.add("t", slow, every="1m")
    async with q.testing(now=NIGHT) as t:
        for kind in ("job:enqueued", "schedule:fired"):
            q.events.on(kind, lambda event: told.append(event.data["job_id"]))
        await t.advance("7m")
        jobs = t.enqueued("slow")
        assert instants(jobs) == ["02 00:01:00", "02 00:04:00", "02 00:07:00"]
        assert told == [job.id for job in jobs for _ in range(2)]  # of what was left out nothing is told


async def test_jobs_go_through_the_enqueue_middleware(q, schedules):
    async def label(ctx, call_next):
        for draft in ctx.jobs:
            if draft.payload == {"n": 13}:
                raise Rejected("unlucky")
            draft.options["meta"] = {"from": "middleware"}
            draft.options["run_at"] = at(28)
            draft.queue = "elsewhere"
        return await call_next()

    told: list[dict[str, Any]] = []
    q.pipeline("enqueue", label)
    handler = q.handle("work", work)
    schedules.add("good", handler.build(1), every="1h")
    schedules.add("bad", handler.build(13), every="1h")
    async with q.testing(now=NIGHT) as t:
        q.events.on("schedule:*", lambda event: told.append({"type": event.type, **event.data}))
        await t.advance("2h")
        jobs = t.enqueued("work")
        assert [(job.meta, job.queue, job.run_at) for job in jobs] == [
            ({"from": "middleware"}, "elsewhere", at(28))
        ] * 2
        bad, good = await schedules.list()
    assert (good.last_at, bad.last_at) == (at(2, 2), at(2, 2))
    failed = [each for each in told if each["type"] == "schedule:failed"]
    assert [(each["schedule_id"], "unlucky" in each["error"]) for each in failed] == [("bad", True)] * 2
    fired = [each for each in told if each["type"] == "schedule:fired"]
    assert [(each["schedule_id"], each["job_id"]) for each in fired] == [("good", job.id) for job in jobs]


async def test_middleware_that_breaks_leaves_the_instant_due_and_others_alone(q, schedules):
    is_broken = [True]

    async def guard(ctx, call_next):
        if is_broken[0] and ctx.jobs[0].name == "first":
            raise RuntimeError("no connection")
        return await call_next()

    told: list[str] = []
    q.pipeline("enqueue", guard)
    schedules.add("a", q.handle("first", work), cron="0 1 * * *")
    schedules.add("b", q.handle("second", work), cron="0 1 * * *")
    async with q.testing(now=NIGHT) as t:
        q.events.on("schedule:failed", lambda event: told.append(event.data["error"]))
        await t.advance("2h")
        assert (len(t.enqueued("first")), len(t.enqueued("second"))) == (0, 1)
        is_broken[0] = False
        await t.advance("1m")
        assert len(t.enqueued("first")) == 1
    assert told == ["RuntimeError('no connection')"]


async def test_what_cannot_be_declared_is_refused_at_once(q, schedules):
    handler = q.handle("work", work)
    schedules.add("taken", handler, every="1h")
    with pytest.raises(ConfigError, match="'taken' is declared already"):
        schedules.add("taken", handler, every="2h")
    with pytest.raises(InvalidOption, match="schedule_id="):
        schedules.add("", handler, every="1h")
    with pytest.raises(PayloadError, match="'work'"):
        schedules.add("x", "work", {"m": 1}, every="1h")
    with pytest.raises(InvalidOption, match="missed='never': is none of latest, skip, all"):
        schedules.add("x", handler, every="1h", missed="never")
    with pytest.raises(InvalidOption, match="is not an option of enqueue"):
        schedules.add("x", handler, every="1h", prioriti=1)
    for option, value in (
        ("id", "one"),
        ("delay", "5m"),
        ("run_at", NIGHT),
        ("depends_on", ["a"]),
        ("deadline", NIGHT),
    ):
        with pytest.raises(InvalidOption, match=f"option {option}=.*holds for one job, and this makes many"):
            schedules.add("x", handler, every="1h", **{option: value})
    with pytest.raises(ConfigError, match="belong to no queue yet"):
        Schedules().add("x", "work", every="1h")
    with pytest.raises(ConfigError, match="belong to another queue"):
        PsyQueue().use(schedules)
    async with q.testing():
        with pytest.raises(LifecycleError, match="await put"):
            schedules.add("late", handler, every="1h")


async def test_a_run_knows_its_schedule_and_the_instant_it_is_for(q, schedules):
    seen: list[tuple[str | None, datetime | None]] = []

    @q.handle("work")
    async def told(ctx: Context) -> None:
        seen.append((ctx.job.schedule_id, ctx.job.nominal_at))

    schedules.add("s", told, cron="0 6 * * *")
    async with q.testing(now=NIGHT) as t:
        await q.pause("work")
        await t.advance("8h")
        await q.resume("work")
        await t.drain()
        (job,) = t.enqueued("work")
        await schedules.run("s")
        await told.enqueue()
        await t.drain()
    assert (job.nominal_at, job.schedule_id) == (at(2, 6), "s")
    assert seen == [("s", at(2, 6)), ("s", None), (None, None)]


# ── missed ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("missed", "late", "expected"),
    [
        ("latest", "3h30m", ["04:00"]),
        ("all", "3h30m", ["02:00", "03:00", "04:00"]),
        ("skip", "3h30m", []),
        ("skip", "30s", ["02:00"]),
        ("latest", "30s", ["02:00"]),
    ],
)
async def test_instants_at_which_nobody_was_there(q, schedules, missed, late, expected):
    """`late`: how long after 02:00 somebody looks again."""
    handler = q.handle("work", work)
    hours, minutes, seconds = {"3h30m": (2, 30, 0), "30s": (0, 0, 30)}[late]
    async with q.testing(now=at(2, 1, 30)) as t:
        await schedules.put("s", handler, every="1h", missed=missed)
        firing = schedules._firing
        assert firing is not None
        looked: list[None] = []

        async def nobody_looks(makers):
            looked.append(None)
            return 10_000.0

        there, firing._look = firing._look, nobody_looks
        await t.advance(timedelta(minutes=30, hours=hours) + timedelta(minutes=minutes, seconds=seconds))
        assert looked
        assert t.enqueued("work") == []
        firing._look = there
        await t.advance("11s")
        made = sorted(job.nominal_at for job in t.enqueued("work"))
        assert [each.strftime("%H:%M") for each in made] == expected
        (view,) = await schedules.list()
        assert view.next_at == at(2, 3 if late == "30s" else 5)


# ── put at run time ───────────────────────────────────────────────────────────────────────────────────────────────────
async def test_put_makes_changes_and_keeps(q, schedules):
    handler = q.handle("work", work)
    async with q.testing(now=NIGHT) as t:
        made = await schedules.put("s", handler.build(1), cron="0 6 * * *", tz="Europe/Rome")
        assert (made.next_at, made.last_at, made.is_declared, made.is_paused) == (at(2, 5), None, False, False)
        assert (made.cron, made.every, made.tz, made.missed) == ("0 6 * * *", None, "Europe/Rome", "latest")
        await t.advance("6h")
        await schedules.pause("s")
        again = await schedules.put("s", handler.build(2), cron="0 6 * * *", tz="Europe/Rome")
        assert (again.payload, again.next_at, again.last_at, again.is_paused) == ({"n": 2}, at(3, 5), at(2, 5), True)
        other = await schedules.put("s", handler.build(2), every=timedelta(hours=4))
        assert (other.every, other.next_at) == (timedelta(hours=4), at(2, 8))
        assert [view.id for view in await schedules.list()] == ["s"]
        assert await schedules.get("s") == other
        assert await schedules.get("t") is None


async def test_a_member_of_an_enumeration_is_its_value_as_an_id(q, schedules):
    class Id(str, Enum):  # noqa: UP042 - `str()` of a StrEnum is its value already
        DAILY = "daily"
        WEEKLY = "weekly"

    handler = q.handle("work", work)
    schedules.add(Id.DAILY, handler, every="1d")
    async with q.testing(now=NIGHT) as t:
        await schedules.put(Id.WEEKLY, handler, every="7d")
        await t.advance("1h")
        assert [view.id for view in await schedules.list()] == ["daily", "weekly"]


async def test_put_is_seen_at_once_in_its_own_process(q, schedules):
    handler = q.handle("work", work)
    async with q.testing(now=at(2, 0, 0, 1)) as t:
        await t.advance("1s")
        await schedules.put("s", handler, every="1s")
        await t.advance("3s")
        assert instants(t.enqueued("work")) == ["02 00:00:03", "02 00:00:04", "02 00:00:05"]


async def test_a_pause_makes_nothing_and_leaves_its_instants_out(q, schedules):
    schedules.add("s", q.handle("work", work), every="1h", missed="all")
    async with q.testing(now=NIGHT) as t:
        await t.advance("90m")
        assert (await schedules.pause("s")).is_paused
        assert (await schedules.pause("s")).is_paused
        await t.advance("5h")
        assert len(t.enqueued("work")) == 1
        resumed = await schedules.resume("s")
        assert (resumed.is_paused, resumed.next_at) == (False, at(2, 7))
        assert (await schedules.resume("s")).next_at == at(2, 7)
        await t.advance("1h")
        assert instants(t.enqueued("work")) == ["02 01:00:00", "02 07:00:00"]


async def test_run_makes_a_job_beside_the_instants_and_obeys_limits(q, schedules):
    schedules.add("s", q.handle("work", work).build(5), every="1h")
    async with q.testing(now=NIGHT) as t:
        await t.advance("1m")
        await schedules.pause("s")
        job = t.job(await schedules.run("s"))
        assert (job.schedule_id, job.payload, job.status) == ("s", {"n": 5}, "pending")
        await q.limits("work", pending_max=1)
        with pytest.raises(QueueFull):
            await schedules.run("s")
        (view,) = await schedules.list()
        assert (view.next_at, view.last_at) == (at(2, 1), None)


async def test_backfill_makes_what_is_missing_once(q, schedules):
    schedules.add("s", q.handle("work", work), every="1h")
    async with q.testing(now=at(2, 10, 30)) as t:
        await t.advance("1h")
        whole = {"after": at(2, 8), "before": at(2, 23)}
        assert await schedules.backfill("s", **whole) == 3
        assert await schedules.backfill("s", **whole) == 0
        assert sorted(job.nominal_at for job in t.enqueued("work")) == [at(2, hour) for hour in (8, 9, 10, 11)]
        with pytest.raises(InvalidOption, match=r"leaves more than 1000 instants. Do it in parts: before 2026-02-"):
            await schedules.backfill("s", after=datetime(2026, 1, 1, tzinfo=UTC), before=at(2))


async def test_an_instant_that_was_backfilled_while_it_was_due_does_not_hold_the_schedule_up(q, schedules):
    schedules.add("s", q.handle("work", work), every="1h")
    async with q.testing(now=NIGHT) as t:
        await t.advance("90m")
        backend = q.get_exposed("backend")
        ((found,), _) = await backend.list_schedules(None, 10)
        # As if somebody had backfilled 02:00 between its begin and the look of this process.
        job = await schedules._shelf().job_of(found, _definition(found), int(at(2, 2).timestamp() * 1000))
        assert await schedules._shelf().fire(found, int(at(2, 2).timestamp() * 1000), (job,), found.next_at_ms)
        await t.advance("2h")
        assert sorted(job.nominal_at for job in t.enqueued("work")) == [at(2, 1), at(2, 2), at(2, 3)]


def _definition(schedule: Schedule) -> Definition:
    definition = decoded(schedule)
    assert definition is not None
    return definition


async def test_remove_leaves_the_jobs(q, schedules):
    schedules.add("s", q.handle("work", work), every="1h")
    async with q.testing(now=NIGHT) as t:
        await t.advance("1h")
        assert await schedules.remove("s")
        assert not await schedules.remove("s")
        await t.advance("3h")
        assert len(t.enqueued("work")) == 1
        for operate in (schedules.pause, schedules.resume, schedules.run):
            with pytest.raises(ScheduleNotFound, match="'s' does not exist; `psyqueue schedules ls`"):
                await operate("s")
        with pytest.raises(ScheduleNotFound):
            await schedules.backfill("s", after=NIGHT, before=NIGHT)


async def test_a_schedule_of_a_later_release_is_left_alone(q, schedules):
    async with q.testing(now=NIGHT) as t:
        spec = b'{"format":9,"plan":{"name":"x","queue":"x"},"timing":{"every_ms":1000}}'
        backend = q.get_exposed("backend")
        await backend.put_schedule(Op("later", 1, 1), Schedule(id="new", spec=spec, next_at_ms=1))
        await backend.put_schedule(Op("later", 1, 2), Schedule(id="odd", spec=b"[]", next_at_ms=1))
        schedules_before, _ = await backend.list_schedules(None, 10)
        await t.advance("1m")
        assert (await backend.list_schedules(None, 10))[0] == schedules_before
        assert await schedules.list() == []
        for operate in (schedules.get, schedules.pause, schedules.resume, schedules.run):
            with pytest.raises(InvalidState, match="later release"):
                await operate("new")
        assert (await backend.list_schedules(None, 10))[0] == schedules_before


async def test_a_process_that_makes_no_jobs_leaves_it_to_others():
    schedules = Schedules(makes_jobs=False)
    q = PsyQueue().use(memory()).use(schedules)
    async with q.testing(now=NIGHT) as t:
        await schedules.put("s", q.handle("work", work), every="1h")
        await t.advance("3h")
        assert t.enqueued("work") == []


# ── without asyncio ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_same_verbs_block(q, schedules):
    handler = q.handle("work", work)
    schedules.add("declared", handler, every="1h")
    with q.sync.testing(now=NIGHT) as t:
        sync = schedules.sync
        assert sync.put("s", handler.build(1), cron="0 6 * * *").next_at == at(2, 6)
        t.advance("7h")
        assert [job.payload for job in t.enqueued("work") if job.schedule_id == "s"] == [{"n": 1}]
        assert (sync.pause("s").is_paused, sync.resume("s").is_paused) == (True, False)
        assert t.job(sync.run("s")).schedule_id == "s"
        assert sync.backfill("s", after=at(1), before=at(2)) == 1
        assert [view.id for view in sync.list()] == ["declared", "s"]
        assert sync.remove("s")
        assert sync.get("s") is None


def test_every_verb_that_is_awaited_has_its_plain_form():
    awaited = {name for name, value in vars(Schedules).items() if asyncio.iscoroutinefunction(value)} - {"_work"}
    assert {name for name in vars(SyncSchedules) if not name.startswith("_")} == awaited
