"""Pages of jobs, pauses, limits, durability, explanations."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from psyqueue import InvalidOption, PsyQueue
from psyqueue.backend import UNTIL_RESUMED, Limits
from psyqueue.backends import memory, sqlite
from support.kernel import next_turn


async def ok(): ...


async def fails():
    raise ValueError("why not")


async def ids(q, **filters):
    found, cursor = [], None
    while True:
        page = await q.jobs(limit=3, cursor=cursor, **filters)
        found += [view.id for view in page]
        cursor = page.cursor
        if cursor is None:
            return sorted(found)


def of(*handles):
    return sorted(handle.id for handle in handles)


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_jobs_are_found_by_each_filter_and_all_pages(started):
    a = await started.enqueue("mail", {"to": "anna"}, queue="one", tenant="acme")
    b = await started.enqueue("mail", {"to": "bert"}, queue="two", delay="1h")
    c = await started.enqueue("report", {"x": "acme"}, queue="two", lane="acme")
    d = await started.enqueue("report", None, queue="two", tenant="acme", lane="fast")
    assert await ids(started) == of(a, b, c, d)
    assert await ids(started, queue="two") == of(b, c, d)
    assert await ids(started, queue=["one", "two"]) == of(a, b, c, d)
    assert await ids(started, name="mail") == of(a, b)
    assert await ids(started, status="scheduled") == of(b)
    assert await ids(started, status=("scheduled", "pending")) == of(a, b, c, d)
    assert await ids(started, text="bert") == of(b)
    assert await ids(started, queue="two", name="report", status="pending") == of(c, d)


async def test_tenant_is_found_exactly_whatever_its_lane(started):
    """A payload that holds the tenant's name, or a lane that is called so, is not the tenant's."""
    mine = await started.enqueue("x", tenant="acme")
    moved = await started.enqueue("x", tenant="acme", lane="fast")
    await started.enqueue("x", {"note": "acme"})
    await started.enqueue("x", lane="acme")
    await started.enqueue("x", tenant="acme2")
    assert await ids(started, tenant="acme") == of(mine, moved)
    assert await ids(started, tenant="acme", text="fast") == []


async def test_jobs_by_time_of_creation():
    q = PsyQueue().use(memory(test_clock=True))
    async with q:
        old = await q.enqueue("x")
        await q.get_exposed("backend").advance_clock(3_600_000)
        new = await q.enqueue("x")
        between = (await new.refresh()).created_at - timedelta(minutes=30)
        assert await ids(q, created_after=between) == of(new)
        assert await ids(q, created_before=between) == of(old)


@pytest.mark.parametrize(
    ("filters", "option"),
    [
        ({"state": "dead"}, "state"),
        ({"status": "failed"}, "status"),
        ({"queue": 7}, "queue"),
        ({"queue": [""]}, "queue"),
        ({"tenant": ""}, "tenant"),
        ({"text": 7}, "text"),
        ({"limit": 0}, "limit"),
        ({"limit": 1000}, "limit"),
        ({"limit": True}, "limit"),
        ({"cursor": 7}, "cursor"),
        ({"created_after": datetime(2026, 1, 1)}, "created_after"),  # noqa: DTZ001 - the naive one is the point
    ],
    ids=repr,
)
async def test_absurd_filters_are_refused(started, filters, option):
    with pytest.raises(InvalidOption) as caught:
        await started.jobs(**filters)
    assert caught.value.option == option


# ── pause, resume, limits ─────────────────────────────────────────────────────────────────────────────────────────────
async def test_paused_queue_starts_nothing_until_it_is_resumed(started):
    started.handle("x", ok)
    await started.enqueue("x")
    await started.pause("x")
    assert not await started.process_next("x")
    await started.resume("x")
    assert await started.process_next("x")


async def test_pause_ends_by_itself_at_its_time():
    q = PsyQueue().use(memory(test_clock=True))
    async with q:
        q.handle("x", ok)
        handle = await q.enqueue("x")
        await q.pause("x", until=(await handle.refresh()).created_at + timedelta(minutes=1))
        assert not await q.process_next("x")
        await q.get_exposed("backend").advance_clock(61_000)
        assert await q.process_next("x")


async def test_limits_change_what_is_named_and_keep_the_rest(started):
    await started.pause("x")
    changed = await started.limits("x", active_max=3, retain_ended=("1h", 50), retain_dead=None)
    assert changed == Limits(
        queue="x", paused_until_ms=UNTIL_RESUMED, active_max=3, retain_ended=(3_600_000, 50), retain_dead=None
    )
    assert await started.limits("x", active_max=None) == Limits(
        queue="x", paused_until_ms=UNTIL_RESUMED, retain_ended=(3_600_000, 50), retain_dead=None
    )
    assert await started.limits("x") == await started.limits("x")
    assert (await started.limits("x-ray")) == Limits(queue="x-ray")


async def test_limits_of_a_queue_are_not_those_of_one_whose_name_begins_alike(started):
    await started.limits("mail.bulk", weight=9)
    assert await started.limits("mail") == Limits(queue="mail")
    assert (await started.limits("mail.bulk")).weight == 9


async def test_limits_of_a_lane_hold_for_it(started):
    started.handle("x", ok)
    assert await started.limits("x", "acme", active_max=0) == Limits(queue="x", lane="acme", active_max=0)
    held = await started.enqueue("x", tenant="acme")
    assert not await started.process_next("x")
    assert "limit:lane" in (await held.refresh()).blocked_by
    await started.enqueue("x", tenant="other")
    assert await started.process_next("x")


async def test_limits_of_a_lane_keep_what_is_not_named(started):
    await started.limits("x", "acme", weight=3)
    changed = Limits(queue="x", lane="acme", weight=3, pending_max=5)
    assert await started.limits("x", "acme", pending_max=5) == changed
    assert await started.limits("x", "acme") == changed
    assert await started.limits("x", "acm") == Limits(queue="x", lane="acm")
    assert await started.limits("x", "") == Limits(queue="x", lane="")
    assert (await started.limits("x", "acme", weight=1)).pending_max == 5


async def test_a_pause_is_not_undone_by_limits_that_are_changed_at_the_same_time(tmp_path):
    """Neither knows of the other: each writes what it names, and nothing that it read before."""
    one, other = [PsyQueue().use(sqlite(tmp_path / "jobs.db")) for _ in range(2)]
    async with one, other:
        for number in range(10):
            await asyncio.gather(one.limits("x", active_max=number), other.pause("x"))
            found = await one.limits("x")
            assert (found.active_max, found.paused_until_ms) == (number, UNTIL_RESUMED)
            await asyncio.gather(one.limits("x", pending_max=number), other.resume("x"))
            found = await one.limits("x")
            assert (found.pending_max, found.paused_until_ms) == (number, None)


async def test_a_look_at_limits_writes_nothing(started, probe):
    await started.limits("x")
    await started.limits("x", "acme")
    assert probe.store.count("put_limits") == 0


@pytest.mark.parametrize(
    ("lane", "limits", "option"),
    [
        (None, {"wait": 1}, "wait"),
        (None, {"weight": 0}, "weight"),
        (None, {"weight": 10_001}, "weight"),
        (None, {"active_max": -1}, "active_max"),
        (None, {"active_max": 1.5}, "active_max"),
        (None, {"starts_per_minute": "fast"}, "starts_per_minute"),
        (None, {"starts_burst": 0}, "starts_burst"),
        (None, {"pending_max": True}, "pending_max"),
        (None, {"retain_ended": "1d"}, "retain_ended"),
        (None, {"retain_dead": ("1d",)}, "retain_dead"),
        (None, {"retain_dead": (0, 1)}, "retain_dead"),
        ("acme", {"retain_dead": None}, "retain_dead"),
        ("a\nb", {"weight": 2}, "lane"),
    ],
    ids=repr,
)
async def test_absurd_limits_are_refused(started, probe, lane, limits, option):
    with pytest.raises(InvalidOption) as caught:
        await started.limits("x", lane, **limits)
    assert caught.value.option == option
    assert probe.store.count("put_limits") == 0


async def test_naive_end_of_a_pause_is_refused(started):
    with pytest.raises(InvalidOption, match="time zone"):
        await started.pause("x", until=datetime(2030, 1, 1))  # noqa: DTZ001


async def test_durability_tells_what_the_store_says(started):
    told = await started.durability()
    assert (told.store, told.process_crash, told.power_loss) == ("memory", "lost", "lost")
    assert told.warnings


# ── explain ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def codes(q, handle):
    explanation = await q.explain(handle.id)
    assert explanation.id == handle.id
    assert all(reason.text for reason in explanation.reasons)
    return [reason.code for reason in explanation.reasons]


async def test_pending_job_without_a_worker_says_so(started):
    handle = await started.enqueue("x")
    assert await codes(started, handle) == ["no_worker"]


@pytest.mark.parametrize(
    ("code", "shown", "text"),
    [
        ("held", "held", "moved to another store"),
        ("needs:p1", "needs:p1", "waits for job p1"),
        ("gate:acme\x1fk", "gate:k", "order key 'k'"),
        ("run_at", "run_at", "is due at 20"),
        ("paused:queue", "paused:queue", "queue 'x' is paused"),
        ("paused:lane", "paused:lane", "lane 'fast' is paused"),
        ("limit:queue", "limit:queue", "as many jobs of its queue run as active_max of queue 'x' allows"),
        ("rate:lane", "rate:lane", "start rate of its lane"),
        ("mode:frozen", "mode:frozen", "namespace is frozen"),
        ("mode:filling", "mode:filling", "namespace is filling: nothing is dequeued, since a move fills it"),
        ("new:thing", "new:thing", "does not know"),
    ],
)
async def test_every_code_of_the_store_has_a_sentence(started, probe, code, shown, text):
    handle = await started.enqueue("x", lane="fast")
    stored = await probe.store.inner.get((handle.id,))

    async def get(ids):
        return (msgspec.structs.replace(stored[0], blocked_by=(code,)),)

    probe.store.get = get
    reason = (await started.explain(handle.id)).reasons[0]
    assert reason.code == shown
    assert text in reason.text


async def test_paused_delayed_and_waiting_jobs_name_what_holds_them(started):
    parent = await started.enqueue("x")
    child = await started.enqueue("x", depends_on=parent)
    later = await started.enqueue("x", run_at=datetime.now(UTC) + timedelta(hours=1))
    await started.enqueue("x", order_key="k", tenant="acme")
    second = await started.enqueue("x", order_key="k", tenant="acme")
    assert f"needs:{parent.id}" in await codes(started, child)
    assert "run_at" in await codes(started, later)
    assert "gate:k" in await codes(started, second)
    await started.pause("x")
    assert "paused:queue" in await codes(started, parent)


async def test_failed_job_that_waits_for_its_retry_tells_its_last_error(started):
    handle = await started.handle("f", fails, backoff_base="1h", backoff_cap="1h").enqueue()
    await started.process_next("f")
    explanation = await started.explain(handle.id)
    texts = {reason.code: reason.text for reason in explanation.reasons}
    assert explanation.status == "scheduled"
    assert texts["last_error"] == "attempt 1 failed: ValueError: why not"
    assert "run_at" in texts


async def test_ended_jobs_tell_how_they_ended(started):
    done = await started.handle("ok", ok).enqueue()
    dead = await started.handle("f", fails, max_retries=0).enqueue()
    gone = await started.enqueue("x")
    await gone.cancel()
    await started.process_next("ok")
    await started.process_next("f")
    assert await codes(started, done) == ["completed"]
    assert await codes(started, dead) == ["dead:exhausted"]
    assert "why not" in (await started.explain(dead.id)).reasons[0].text
    assert await codes(started, gone) == ["cancelled"]


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("result", "its handler returned something that is not JSON, or that is too large"),
        ("too_large", "its outcome was too large for one call to the store"),
        ("rejected: closed", "middleware turned its run away: closed"),
        ("not a secure address", "its handler gave it up: not a secure address"),
        ("dead_letter", "its handler gave it up"),
    ],
)
async def test_a_dead_job_tells_who_gave_it_up(started, probe, reason, text):
    handle = await started.enqueue("x")
    (stored,) = await probe.store.inner.get((handle.id,))

    async def get(ids):
        return (msgspec.structs.replace(stored, status="dead", reason=reason),)

    probe.store.get = get
    (told,) = (await started.explain(handle.id)).reasons
    assert (told.code, told.text) == (f"dead:{reason}", text)


async def test_worker_of_another_queue_is_no_worker_for_this_one(started, probe):
    started.handle("other", ok)
    started.start_worker("other")
    while not (await probe.store.inner.sessions(None, 10))[0]:
        await next_turn()
    handle = await started.enqueue("x", delay="1h")
    assert await codes(started, handle) == ["run_at", "no_worker"]


async def test_job_of_a_running_worker_is_not_said_to_lack_one(started, probe):
    started.handle("x", ok)
    worker = started.start_worker("x")
    handle = await started.enqueue("x", delay="1h")
    while not (await probe.store.inner.sessions(None, 10))[0]:
        assert worker.failure is None
        await next_turn()
    assert await codes(started, handle) == ["run_at"]


# ── ids ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("call", ["get", "cancel", "explain", "handle_of", "replay"])
@pytest.mark.parametrize(("wrong", "advice"), [(None, ""), (5, ""), (b"id", ""), ("coroutine", "Await it first")])
async def test_what_is_no_id_is_refused(call, wrong, advice):
    """None is what a look-up gives that found nothing: "no such job" would hide that."""
    q = PsyQueue().use(memory())
    async with q:
        pending = (await q.enqueue("work")).refresh()
        given = pending if wrong == "coroutine" else wrong

        async def ask() -> None:
            await getattr(q.dead_letter if call == "replay" else q, call)(given)

        with pytest.raises(InvalidOption, match=rf"id=.*is {type(given).__name__}, not text.*{advice}"):
            await ask()
        await pending


@pytest.mark.parametrize("kind", ["text", "uuid", "handle", "view"])
async def test_what_has_an_id_stands_for_it(kind: str):
    q = PsyQueue().use(memory())
    async with q:
        job = await q.enqueue("work")
        given: Any = {"text": job.id, "uuid": UUID(job.id), "handle": job, "view": await job.refresh()}[kind]
        view = await q.get(given)
        assert view is not None
        assert q.handle_of(given).id == job.id
