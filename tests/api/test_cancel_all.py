"""Many jobs are cancelled by what they have in common, on every store."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from psyqueue import InvalidOption
from psyqueue.errors import LifecycleError
from psyqueue.kernel import cancels

CANCELLED, PENDING = "cancelled", "pending"


async def work(n: int = 0) -> None: ...


async def statuses(*jobs):
    return [(await job.refresh()).status for job in jobs]


async def test_what_fits_all_filters_is_cancelled_and_the_rest_goes_on(q):
    async with q:
        mail, report = q.handle("mail", work, queue="out"), q.handle("report", work, queue="out")
        other, elsewhere = await report.enqueue(4), await mail.options(queue="in").enqueue(5)
        a, later = await mail.enqueue(1), await mail.options(delay="1h").enqueue(2)
        waiting = await mail.options(depends_on=[other.id]).enqueue(3)
        assert await q.cancel_all(queue="out", name="mail") == 3
        assert await statuses(a, later, waiting) == [CANCELLED] * 3
        assert await statuses(other, elsewhere) == [PENDING] * 2
        assert (await a.refresh()).reason == "cancelled by request"
        assert await q.cancel_all(queue="out", name="mail") == 0
        assert await q.cancel_all(status="scheduled") == 0
        assert await q.cancel_all(queue=["in", "out"], status=["pending", "completed"]) == 2


async def test_all_pages_are_gone_through(q, monkeypatch):
    monkeypatch.setattr(cancels, "ITEMS_MAX", 3)
    async with q:
        await q.enqueue_bulk([{"name": "x"} for _ in range(10)])
        kept = await q.enqueue("y")
        assert await q.cancel_all(name="x") == 10
        assert await statuses(kept) == [PENDING]


async def test_a_tenant_is_meant_exactly(q, monkeypatch):
    monkeypatch.setattr(cancels, "ITEMS_MAX", 2)
    async with q:
        mine = [await q.enqueue("x", tenant="acme") for _ in range(5)]
        moved = await q.enqueue("x", tenant="acme", lane="fast")
        others = [
            await q.enqueue("x", {"note": "acme"}),
            await q.enqueue("x", tenant="acme2"),
            await q.enqueue("x", lane="acme"),
        ]
        assert await q.cancel_all(tenant="acme") == 6
        assert await statuses(*mine, moved) == [CANCELLED] * 6
        assert await statuses(*others) == [PENDING] * 3


async def test_what_runs_is_asked_to_end_at_once(q):
    running = asyncio.Event()

    async def endless():
        running.set()
        await asyncio.Event().wait()

    heard = []
    async with q:
        q.events.on("job:cancelled", lambda event: heard.append(event.data["job_id"]))
        handler = q.handle("endless", endless)
        q.start_worker("endless", concurrency=1, prefetch=0)
        job, behind = await handler.enqueue(), await handler.enqueue()
        await asyncio.wait_for(running.wait(), 20)
        assert await q.cancel_all(queue="endless") == 2
        assert [(await each.wait(timeout=20)).status for each in (job, behind)] == [CANCELLED] * 2
    assert sorted(heard) == sorted((job.id, behind.id))


async def test_by_time_of_creation(make):
    q = make(test_clock=True)
    async with q:
        old = await q.enqueue("x")
        await q.get_exposed("backend").advance_clock(3_600_000)
        new = await q.enqueue("x")
        between = (await new.refresh()).created_at - timedelta(minutes=30)
        assert await q.cancel_all(created_before=between) == 1
        assert await statuses(old, new) == [CANCELLED, PENDING]
        assert await q.cancel_all(created_before=datetime(2999, 1, 1, tzinfo=UTC)) == 1


@pytest.mark.parametrize(
    ("choice", "option"),
    [
        ({}, "filters"),
        ({"queue": None}, "queue"),
        ({"queue": "mail", "name": []}, "name"),
        ({"status": ()}, "status"),
        ({"tenant": None}, "tenant"),
        ({"text": ""}, "text"),
        ({"created_before": None}, "created_before"),
        ({"limit": 5}, "limit"),
        ({"state": "dead"}, "state"),
        ({"status": "failed"}, "status"),
        ({"queue": 7}, "queue"),
        ({"tenant": "a\nb"}, "tenant"),
        ({"created_before": datetime(2999, 1, 1)}, "created_before"),  # noqa: DTZ001 - without a zone, on purpose
    ],
    ids=repr,
)
async def test_what_is_no_choice_cancels_nothing(q, choice, option):
    async with q:
        job = await q.enqueue("x")
        with pytest.raises(InvalidOption) as caught:
            await q.cancel_all(**choice)
        assert caught.value.option == option
        assert await statuses(job) == [PENDING]


async def test_a_queue_that_is_not_running_says_so(q):
    with pytest.raises(LifecycleError):
        await q.cancel_all(queue="x")


def test_without_asyncio(q):
    with q.sync as sync:
        jobs = sync.enqueue_bulk([{"name": "x"}, {"name": "x"}])
        assert sync.cancel_all(name="x") == 2
        assert [job.refresh().status for job in jobs] == [CANCELLED] * 2
