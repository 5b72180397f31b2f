"""What the pages show, and what their buttons do; on the memory store. test_on_stores has the others."""

from __future__ import annotations

import re
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.routing import Mount

from dashboard.conftest import Parsed, Shop
from psyqueue import PsyQueue
from psyqueue.backend.compose import all_sessions
from psyqueue.backends import memory, redis, sqlite
from psyqueue.dashboard import Dashboard, everyone
from psyqueue.dashboard.jobs import JOBS_SHOWN
from psyqueue.dashboard.overview import QUEUES_MAX
from psyqueue.errors import ConfigError
from psyqueue.kernel.throughput import MINUTE_MS, SPAN_MS
from psyqueue.plugins import Flow, Workflows


# ── queues ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_the_overview_counts_and_says_how_each_queue_is_doing(shop, admin):
    await shop.dead()
    await shop.mail.enqueue("eve")
    await shop.mail.options(delay="1h", queue="late").enqueue("eve")
    page = await admin.see("/")
    assert "1 pending" in page.text
    assert "1 scheduled" in page.text
    assert "1 dead" in page.text
    assert "mail stalled 1 0 0 0 1" in page.text
    assert "late idle 0 0 1 0 0" in page.text
    assert "shop" in page.text
    found = await admin.see("/", find="la")
    assert ("late" in found.text, "mail stalled" in found.text) == (True, False)
    assert "No queue has “xyz” in its name." in (await admin.see("/", find="xyz")).text


async def test_the_overview_shows_what_workers_got_done(browse, monkeypatch):
    monkeypatch.setattr("psyqueue.dashboard.desk.LOOK_AGAIN_MS", 0)
    monkeypatch.setattr("psyqueue.dashboard.desk.POINT_MS", 0)
    shop = Shop(memory(test_clock=True))
    async with shop.q:
        admin, backend = browse(shop.q), shop.q.get_exposed("backend")
        await admin.see("/")
        worker = await shop.worker()
        await worker.stop()
        await backend.advance_clock(SPAN_MS)
        assert "mail idle 0 0 0 0 0 0.1" in (await admin.see("/")).text, "one in 20 s"
        await backend.advance_clock(MINUTE_MS - SPAN_MS)
        page = await admin.see("/")
    assert "1 completed in a minute" in page.text
    assert "0 failed in a minute" in page.text
    lines = page.values("polyline", "points")
    assert [len(points.split()) for points in lines] == [60, 60, 3], "an hour, and what this process saw"


async def test_the_overview_shows_the_busiest_of_many_queues(shop, admin):
    for number in range(QUEUES_MAX + 2):
        await shop.mail.options(queue=f"q{number:03}").enqueue("eve")
    await shop.mail.options(queue="q101").enqueue("eve")
    page = await admin.see("/")
    rows = [href for href in page.values("a", "href") if href.startswith("/queue?")]
    assert (len(rows), rows[0]) == (QUEUES_MAX, "/queue?name=q101")
    assert "2 more queues" in page.text


async def test_a_queue_is_paused_and_resumed(shop, admin):
    await shop.mail.enqueue("eve")
    back = "/queue?name=mail"
    assert await admin.do("/queue/pause", back, name="mail") == "Queue mail is paused: what runs goes on."
    assert (await shop.q.limits("mail")).paused_until_ms is not None
    page = await admin.see("/queue", name="mail")
    assert "mail paused" in page.text
    assert "/queue/resume" in page.values("form", "action")
    await admin.do("/queue/resume", back, name="mail")
    assert (await shop.q.limits("mail")).paused_until_ms is None


async def test_of_the_limits_only_what_was_changed_on_the_page_is_written(shop, admin):
    fields = ("active_max", "starts_per_minute", "starts_burst", "pending_max", "retain_ended", "retain_dead")
    page = await admin.see("/queue", name="mail")
    shown = {attrs["name"]: attrs["value"] for tag, attrs in page.elements if tag == "input" and "name" in attrs}
    form = {name: value for name, value in shown.items() if name.removeprefix("was_") in fields}
    assert (form["retain_ended"], form["active_max"]) == ("1d:10000", "")
    await shop.q.limits("mail", pending_max=7)  # somebody else, meanwhile
    told = await admin.do("/queue/limits", name="mail", **{**form, "active_max": "3", "retain_ended": "2h:5"})
    assert told == "Limits of queue mail were written: active_max, retain_ended."
    limits = await shop.q.limits("mail")
    assert (limits.active_max, limits.retain_ended, limits.pending_max) == (3, (7_200_000, 5), 7)
    again = {**form, "was_active_max": "3", "active_max": ""}
    await admin.do("/queue/limits", name="mail", **again)
    assert (await shop.q.limits("mail")).active_max is None


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("active_max", "many", "is no whole number. Leave it empty for none"),
        ("active_max", "-1", "active_max"),
        ("retain_dead", "7d", "Write e.g. 7d:10000"),
        ("retain_dead", "soon:5", "is not a duration"),
    ],
)
async def test_a_limit_that_is_none_is_told(shop, admin, field, value, told):
    answer = await admin.send("/queue/limits", name="mail", **{field: value})
    assert answer.status_code == 400
    assert told in answer.text
    assert (await shop.q.limits("mail")).active_max is None


async def test_a_queue_shows_its_lanes_with_limits_and_its_workers(shop, admin):
    await shop.q.limits("mail", "acme", weight=3, active_max=2)
    worker = await shop.worker(concurrency=4)
    page = await admin.see("/queue", name="mail")
    assert "acme 3 2 none none" in page.text
    assert re.search(r"w1 open 0 of 4 mail", page.text), page.text
    await worker.stop()
    assert "No worker takes its jobs." in (await admin.see("/queue", name="mail")).text


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_jobs_are_found_by_the_filter_of_the_command_line_and_by_status(shop, admin):
    dead = await shop.dead(error="mailbox full")
    waiting = (await shop.mail.enqueue("eve")).id
    assert await found(admin) == {dead, waiting}
    assert await found(admin, status="pending") == {waiting}
    assert await found(admin, where="error:full") == {dead}
    assert await found(admin, where="status:dead", status="pending") == set()
    page = await admin.see("/jobs", where="error:full")
    assert "exhausted · ValueError: mailbox full" in page.text
    wrong = await admin.get("/jobs", where="colour:red")
    assert (wrong.status_code, "there is no field" in wrong.text) == (400, True)
    assert "colour:red" in Parsed(wrong.text).values("input", "value"), "to be mended where it stands"
    assert (await admin.get("/jobs", status="red")).status_code == 400


async def found(browser: Any, **asked: str) -> set[str]:
    page = await browser.see("/jobs", **asked)
    return set(ids_on(page))


def ids_on(page: Any) -> list[str]:
    links = page.values("a", "href")
    return [link.partition("=")[2] for link in links if link.startswith("/job?id=")]


async def test_jobs_are_paged(shop, admin):
    await shop.q.enqueue_bulk([shop.mail.build(str(number)) for number in range(JOBS_SHOWN + 3)])
    page = await admin.see("/jobs", status="pending")
    (rest,) = [href for href in page.values("a", "href") if "cursor=" in href]
    more = await admin.see(rest)
    seen = [*ids_on(page), *ids_on(more)]
    assert len(seen) == len(set(seen)) == JOBS_SHOWN + 3


async def test_a_search_that_finds_nothing_for_long_asks_whether_to_go_on(shop, admin, monkeypatch):
    monkeypatch.setattr("psyqueue.dashboard.jobs.STEPS_MAX", 1)
    await shop.q.enqueue_bulk([shop.mail.build(str(number)) for number in range(501)])
    await shop.mail.options(meta={"rare": "yes"}).enqueue("eve")
    page = await admin.see("/jobs", where="meta.rare:yes")
    assert "No job fits among those that were looked through." in page.text
    (rest,) = [href for href in page.values("a", "href") if "cursor=" in href]
    assert len(ids_on(await admin.see(rest))) == 1


async def test_a_job_shows_all_of_itself(shop, admin):
    job_id = await shop.dead("ada", "first line\nsecond <b>line</b>")
    page = await admin.see("/job", id=job_id)
    for told in ("mail dead", job_id, '"user": "ada"', "its retries are used up", "ValueError", "max_retries 0"):
        assert told in page.text, told
    assert "first line second <b>line</b>" in page.text
    assert "Traceback (most recent call last)" in page.text
    assert "data-live" not in (await admin.get("/job", id=job_id)).text, "it has ended: nothing changes any more"
    live = await shop.mail.options(delay="1h", meta={"plan": "gold"}, tenant="acme").enqueue("eve")
    page = await admin.see("/job", id=live.id)
    assert "it is due at" in page.text
    assert '"plan": "gold"' in page.text
    assert "tenant_id acme" in page.text
    assert "data-live" in (await admin.get("/job", id=live.id)).text


@pytest.mark.parametrize("job_id", ["nobody", "", "x" * 300, "a\nb", "\ud83d"])
async def test_a_job_that_is_not_there_is_told(admin, job_id):
    answer = await admin.client.get("/job", params={"id": job_id.encode("utf-8", "surrogatepass")})
    assert answer.status_code in (400, 404)


async def test_a_large_payload_is_cut(shop, admin):
    job = await shop.mail.enqueue("x" * 50_000)
    page = await admin.see("/job", id=job.id)
    assert "characters more" in page.text


async def test_chosen_jobs_are_run_again_cancelled_and_deleted(shop, admin):
    dead, live = await shop.dead(), (await shop.mail.options(delay="1h").enqueue("eve")).id
    assert await admin.do("/jobs/retry", id=[dead, live]) == "1 job was run again; 1 could not be."
    assert await shop.status(dead) == "pending"
    assert await admin.do("/jobs/cancel", id=[dead, live]) == "2 jobs were cancelled."
    assert await admin.do("/jobs/delete", id=[dead]) == "1 job was deleted."
    assert (await shop.status(dead), await shop.status(live)) == (None, "cancelled")
    nothing = await admin.send("/jobs/cancel")
    assert (nothing.status_code, "no job was chosen" in nothing.text) == (400, True)


async def test_all_that_fit_are_changed_after_their_number_was_typed(shop, admin):
    for user in ("ada", "eve", "bob"):
        await shop.dead(user)
    kept = (await shop.mail.options(queue="other").enqueue("eve")).id
    sure = await admin.see("/jobs/sure", where="name:mail", deed="retry")
    assert "Run 3 jobs again?" in sure.text
    fields = {attrs["name"]: attrs["value"] for tag, attrs in sure.elements if tag == "input" and "value" in attrs}
    form = {key: value for key, value in fields.items() if key not in ("form_token", "back")}
    assert form == {"where": "name:mail", "status": ""}
    for typed in ({"typed": "2"}, {}, {"typed": ""}):
        wrong = await admin.send("/jobs/retry", **form, **typed)
        assert (wrong.status_code, "Nothing was done" in wrong.text) == (400, True)
    more = await shop.dead("zoe")
    late = await admin.send("/jobs/retry", **form, typed="3")
    assert "is not 4, the number of jobs that fit now" in late.text
    assert len(await found(admin, status="dead")) == 4
    await admin.do("/jobs/delete", id=[more])
    assert await admin.do("/jobs/retry", **form, typed="3") == "3 jobs were run again."
    assert await found(admin, status="dead") == set()
    assert await shop.status(kept) == "pending"
    assert (await admin.get("/jobs/sure", deed="explode")).status_code == 400


async def test_a_change_that_takes_too_long_stops_and_says_so(shop, admin, monkeypatch):
    await shop.q.enqueue_bulk([shop.mail.build(str(number)) for number in range(1_001)])
    monkeypatch.setattr("psyqueue.dashboard.jobs.CHANGE_MS_MAX", 0)
    told = await admin.do("/jobs/cancel", where="queue:mail", typed="1,001")
    assert told == "500 jobs were cancelled; then the time was over: do it again for the rest."


async def test_what_cannot_be_counted_in_time_is_refused(tmp_path, browse, monkeypatch):
    monkeypatch.setattr("psyqueue.dashboard.jobs.COUNT_S_MAX", 0)
    async with PsyQueue().use(sqlite(path=tmp_path / "jobs.db")) as q:
        answer = await browse(q).get("/jobs/sure", where="error:x", deed="retry")
    assert (answer.status_code, "too many jobs to count" in answer.text) == (409, True)


async def test_failures_are_one_line_a_kind(shop, admin):
    for number, user in enumerate(("ada", "eve")):
        await shop.dead(user, f"mailbox {number} is full")
    await shop.dead("bob", "no such user")
    page = await admin.see("/failures")
    assert "2 mail ValueError: mailbox * is full mail" in page.text
    first = next(href for href in page.values("a", "href") if href.startswith("/jobs?where="))
    assert len(ids_on(await admin.see(first))) == 2
    assert "No job is dead that fits." in (await admin.see("/failures", where="queue:other")).text


# ── workers, and plugins ──────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_worker_is_shown_and_told_to_end(shop, admin):
    assert "No worker runs." in (await admin.see("/workers")).text
    worker = await shop.worker()
    page = await admin.see("/workers")
    assert "w1 open 0 of 10 mail" in page.text
    (info,) = await all_sessions(shop.q.get_exposed("backend"))
    told = await admin.do("/workers/drain", "/workers", session_id=info.session.id)
    assert told == "Worker w1 was told to take no more jobs, and to end after those that run."
    await worker.wait()
    gone = await admin.send("/workers/stop", session_id=info.session.id)
    assert (gone.status_code, "has ended meanwhile" in gone.text) == (409, True)


async def test_schedules_are_shown_paused_and_run(shop, admin):
    await shop.schedules.put("nightly", shop.mail.build("eve"), cron="0 3 * * *", tz="Europe/Rome")
    await shop.schedules.put("often", shop.mail.build("eve"), every="90s")
    page = await admin.see("/schedules")
    assert "nightly mail mail 0 3 * * * Europe/Rome active" in page.text
    assert "often mail mail every 1 min 30 s active" in page.text
    await admin.do("/schedules/pause", "/schedules", id="nightly")
    assert "nightly mail mail 0 3 * * * Europe/Rome paused" in (await admin.see("/schedules")).text
    await admin.do("/schedules/resume", "/schedules", id="nightly")
    told = await admin.do("/schedules/run", "/schedules", id="nightly")
    job_id = told.split()[1]
    assert (await shop.q.get(job_id)).schedule_id == "nightly"
    assert (await admin.send("/schedules/run", id="nobody")).status_code == 404


async def test_a_workflow_is_shown_with_its_steps_cancelled_and_resumed(shop, admin):
    assert "There are no workflows." in (await admin.see("/workflows")).text
    flow = Flow("order").add("charge", shop.mail.build("ada")).add("ship", shop.mail.build("eve"), after="charge")
    run = await shop.workflows.enqueue(flow)
    page = await admin.see("/workflows")
    assert f"order {run.id} running" in page.text
    view = await admin.see("/workflow", id=run.id)
    assert "order running" in view.text
    assert "charge pending" in view.text
    assert "ship waiting" in view.text
    assert view.values("rect", "x") == ["1", "201"], "each behind what it waits for"
    assert (view.values("line", "x1"), view.values("line", "x2")) == (["150"], ["200"])
    assert f"workflow {run.id}" in (await admin.see("/job", id=f"{run.id}.charge")).text
    shop.broken["ada"] = "no money"
    await shop.work()
    del shop.broken["ada"]
    failed = await admin.see("/workflow", id=run.id)
    assert "order failed" in failed.text
    assert await admin.do("/workflow/resume", f"/workflow?id={run.id}", id=run.id) == f"Workflow {run.id} is running."
    await shop.work()
    assert (await run.view()).status == "completed"
    assert "This job ends a workflow" in (await admin.see("/job", id=run.id)).text
    assert (await admin.get("/workflow", id="nobody")).status_code == 404


async def test_a_workflow_is_found_among_many_jobs(tmp_path, browse, monkeypatch):
    monkeypatch.setattr("psyqueue.dashboard.workflows.STEPS_MAX", 1)
    workflows = Workflows(queue="z")
    async with PsyQueue().use(sqlite(path=tmp_path / "jobs.db")).use(workflows) as q:
        await q.enqueue_bulk([{"name": "other", "options": {"queue": "a"}} for _ in range(2_000)])
        run = await workflows.enqueue(Flow("order").add("charge", "other"))
        admin, path = browse(q), "/workflows"
        page = await admin.see(path)
        assert "There is no workflow among the jobs that were looked through." in page.text
        for _ in range(100):
            if not (more := [href for href in page.values("a", "href") if "cursor=" in href and href != path]):
                break
            (path,) = more
            page = await admin.see(path)
        assert f"order {run.id} running" in page.text


@pytest.mark.parametrize(
    "payload",
    [
        "text",
        None,
        ["x"],
        {"flow": 1},
        {"flow": "f", "steps": [1]},
        {"flow": "f", "steps": {"a": {"id": "x", "after": {"later": ["dead"]}, "undo": None}}},
    ],
)
async def test_a_job_that_only_has_the_name_of_a_workflow_s_end_is_none(shop, admin, payload):
    job = await shop.q.enqueue("psyqueue.workflow", payload, queue="flows")
    assert "There are no workflows." in (await admin.see("/workflows")).text
    assert (await admin.get("/workflow", id=job.id)).status_code == 404
    for act in ("cancel", "resume"):
        assert (await admin.send(f"/workflow/{act}", id=job.id)).status_code == 404
    assert (await admin.get("/job", id=job.id)).status_code == 200


async def test_what_fails_unawares_is_told_by_its_kind_and_logged(shop, admin, caplog):
    await shop.schedules.put("nightly", shop.mail.build("eve"), every="1h")

    async def run(*_: Any) -> None:
        raise LookupError("a defect")

    shop.schedules.run = run
    with caplog.at_level("INFO", "psyqueue.dashboard"):
        answer = await admin.send("/schedules/run", id="nightly")
    assert (answer.status_code, "LookupError" in answer.text, "a defect" in answer.text) == (500, True, False)
    assert "a defect" in caplog.text
    assert "failed: LookupError" in [getattr(record, "done", "") for record in caplog.records]


async def test_a_circuit_is_shown_opened_and_closed(shop, admin):
    assert "There are no circuits." in (await admin.see("/circuits")).text
    assert (await admin.send("/circuits/open", name="smtp", **{"for": "5m"})).status_code == 409
    await shop.breaker.open("1m")
    assert "smtp open in" in (await admin.see("/circuits")).text
    await admin.do("/circuits/close", "/circuits", name="smtp")
    assert (await shop.breaker.state()).state == "closed"
    await admin.do("/circuits/open", "/circuits", name="smtp", **{"for": "5m"})
    assert (await shop.breaker.state()).state == "open"


async def test_a_queue_without_plugins_says_so(browse):
    async with PsyQueue().use(memory()) as q:
        admin = browse(q)
        assert "There are no schedules." in (await admin.see("/schedules")).text
        assert "There are no workflows." in (await admin.see("/workflows")).text
        for path in ("/schedules/run", "/workflow/cancel"):
            answer = await admin.send(path, id="x")
            assert answer.status_code == 409, path


# ── around the pages ──────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_queue_that_is_not_open_is_told(browse):
    q = PsyQueue().use(memory())
    answer = await browse(q).get("/")
    assert (answer.status_code, "async with q" in answer.text) == (503, True)
    async with q:
        assert (await browse(q).get("/")).status_code == 200


async def test_a_store_that_is_away_is_told_and_comes_back(tmp_path, own_servers, browse):
    server = own_servers.redis(durable=True)
    async with PsyQueue().use(redis(url=server.url, timeout="300ms")) as q:
        admin = browse(q)
        assert (await admin.get("/")).status_code == 200
        server.kill()
        away = await admin.get("/jobs")
        assert away.status_code == 503
        server.restart()
        assert (await admin.get("/jobs")).status_code == 200


async def test_what_was_done_is_told_once_and_not_to_a_page_that_looks_again(shop, admin):
    answer = await admin.send("/queue/pause", name="mail")
    again = await admin.client.get("/", headers={"X-Again": "1"})
    assert "is paused" not in again.text
    assert "is paused: what runs" in (await admin.client.get(answer.headers["location"])).text
    assert "is paused: what runs" not in (await admin.get("/")).text


async def test_it_works_under_a_prefix(shop, browse):
    site = Dashboard(shop.q, access=everyone("admin"))
    app = Starlette(routes=[Mount("/ops/queue", site)])
    job_id = await shop.dead()
    async with AsyncClient(transport=ASGITransport(app), base_url="http://shop.test") as client:
        page = await client.get("/ops/queue/job", params={"id": job_id})
        assert page.status_code == 200
        links = re.findall(r'(?<=\s)(?:href|src|action|formaction)="([^"]*)"', page.text)
        assert links
        assert all(link.startswith("/ops/queue/") for link in links), links
        for link in ("/ops/queue/static/dashboard.css", "/ops/queue/static/dashboard.js", "/ops/queue/static/icon.svg"):
            assert (await client.get(link)).status_code == 200
        back = re.findall(r'name="back" value="([^"]*)"', page.text)[0]
        assert back == f"/job?id={job_id}"
        form = {"form_token": client.cookies["psyqueue_form"], "back": back, "id": job_id}
        done = await client.post("/ops/queue/jobs/retry", data=form)
        assert done.headers["location"] == f"/ops/queue/job?id={job_id}"
        assert await shop.status(job_id) == "pending"


@pytest.mark.parametrize(
    ("queue", "access", "payloads", "told"),
    [
        (object(), everyone("admin"), "viewer", "takes a PsyQueue first, not object"),
        (PsyQueue(), "admin", "viewer", "access= takes"),
        (PsyQueue(), everyone("admin"), "boss", "is no role of the dashboard; there are viewer, operator, admin"),
    ],
)
def test_a_dashboard_that_makes_no_sense_is_refused(queue, access, payloads, told):
    with pytest.raises(ConfigError, match=told):
        Dashboard(queue, access=access, payloads=payloads)
