"""What is done to exactly those that were meant; and looks that tell what somebody has to know."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from psyqueue.backend.compose import all_sessions


# ── acts ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_chosen_id_is_one_job_however_it_is_written(shop, admin):
    star = (await shop.mail.options(id="*", delay="1h").enqueue("ada")).id
    other = (await shop.mail.options(delay="1h").enqueue("eve")).id
    assert await admin.do("/jobs/cancel", id=["*"]) == "1 job was cancelled."
    assert (await shop.status(star), await shop.status(other)) == ("cancelled", "scheduled")
    dead = await shop.dead()
    assert await admin.do("/jobs/cancel", id=[dead]) == "0 jobs were cancelled; 1 could not be."
    assert await shop.status(dead) == "dead"


async def test_all_that_fit_are_those_in_the_status_of_the_page(shop, admin):
    later = (await shop.mail.options(delay="1h").enqueue("ada")).id
    now = (await shop.mail.enqueue("eve")).id
    form = {"where": "name:mail", "status": "scheduled"}
    assert "Cancel 1 job?" in (await admin.see("/jobs/sure", **form, deed="cancel")).text
    assert await admin.do("/jobs/cancel", **form, typed="1") == "1 job was cancelled."
    assert (await shop.status(later), await shop.status(now)) == ("cancelled", "pending")


async def test_a_worker_that_is_told_to_stop_does_not_wait_for_what_runs(shop, admin):
    begun, forever = asyncio.Event(), asyncio.Event()

    async def endless() -> None:
        begun.set()
        await forever.wait()

    shop.q.handle("endless", endless, queue="mail")
    job = await shop.q.enqueue("endless", queue="mail")
    worker = shop.q.start_worker("mail", name="w1")
    worker.options = dataclasses.replace(worker.options, grace_ms=0)
    await begun.wait()
    (info,) = await all_sessions(shop.q.get_exposed("backend"))
    told = await admin.do("/workers/stop", "/workers", session_id=info.session.id)
    assert told == "Worker w1 was told to end; what runs gets its grace, then it is handed back."
    await worker.wait()
    assert await shop.status(job.id) == "pending"


async def test_a_job_that_no_page_can_be_made_of_is_told(shop, admin, monkeypatch):
    """Somebody wrote into the store who should not: an error that is none."""
    job_id = await shop.dead()
    view = msgspec.structs.replace(await shop.q.get(job_id), errors=("boom",))

    async def get(_: str) -> Any:
        return view

    monkeypatch.setattr(shop.q, "get", get)
    answer = await admin.get("/job", id=job_id)
    assert (answer.status_code, "The log of the server says where." in answer.text) == (500, True)


# ── looks ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_the_overview_tells_of_a_move_and_of_what_the_store_warns(shop, admin, monkeypatch):
    backend = shop.q.get_exposed("backend")
    info = msgspec.structs.replace(await backend.info(), mode="moved", moved_to="redis://new", warnings=("no disk",))

    async def moved() -> Any:
        return info

    monkeypatch.setattr(backend, "info", moved)
    page = (await admin.see("/")).text
    assert "This store is moved : its jobs are being moved to another one, or were: to redis://new." in page
    assert "no disk" in page


async def test_many_who_look_at_once_ask_the_store_once(shop, admin, monkeypatch):
    backend, asked = shop.q.get_exposed("backend"), 0
    queues = backend.queues

    async def counted(*given: Any) -> Any:
        nonlocal asked
        asked += 1
        return await queues(*given)

    monkeypatch.setattr(backend, "queues", counted)
    await asyncio.gather(*[admin.see("/") for _ in range(10)])
    assert asked == 1
    await admin.do("/queue/pause", name="mail")
    assert asked == 2, "who changed something sees it"


async def test_a_pause_that_ends_says_when(shop, admin):
    await shop.q.pause("mail", until=datetime.now(UTC) + timedelta(hours=2))
    assert "Paused; it goes on by itself in" in (await admin.see("/queue", name="mail")).text
    await shop.q.pause("mail")
    assert "goes on by itself" not in (await admin.see("/queue", name="mail")).text


async def test_failures_say_when_not_all_were_looked_at(shop, admin, monkeypatch):
    monkeypatch.setattr("psyqueue.dashboard.failures.JOBS_MAX", 1)
    await shop.dead("ada")
    assert "were looked through" not in (await admin.see("/failures")).text
    await shop.dead("eve")
    assert "dead jobs were looked through" in (await admin.see("/failures")).text


async def test_the_last_error_stands_first(shop, admin):
    job_id = await shop.dead("ada", "the first time")
    await shop.q.dead_letter.replay(job_id)
    shop.broken["ada"] = "the second time"
    await shop.work("mail")
    text = (await admin.see("/job", id=job_id)).text
    assert text.index("ValueError : the second time") < text.index("ValueError : the first time")
