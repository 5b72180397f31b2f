"""`psyqueue schedules`: what it answers to people and to programs."""

from __future__ import annotations

import sys
from datetime import datetime

import pytest

APP = """
import asyncio

from psyqueue import PsyQueue
from psyqueue.backends import sqlite
from psyqueue.plugins import Schedules

schedules = Schedules()
q = PsyQueue(name="office").use(sqlite(path="jobs.db")).use(schedules)
bare = PsyQueue(name="bare").use(sqlite(path="jobs.db"))


async def label(ctx, call_next):
    for draft in ctx.jobs:
        draft.options["meta"] = {"by": "office"}
    return await call_next()


q.pipeline("enqueue", label)


@q.handle("report", queue="office", max_retries=9)
async def report(city: str) -> None: ...


schedules.add("daily", report.build("Rome"), cron="30 7 * * *", tz="Europe/Rome", priority=4)
schedules.add("often", report.build("Bari"), every="90s")



async def main():
    async with q:
        while len(await schedules.list()) < 2:
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(main())
"""
ITEM = ["id", "name", "queue", "payload", "options", "cron", "tz", "missed", "is_declared", "is_paused"]
ITEM += ["next_at", "last_at", "every_ms"]


@pytest.fixture
def office(cli):
    """A folder whose store was told of two schedules."""
    (cli.folder / "office.py").write_text(APP)
    assert cli.start("office.py", command=[sys.executable]).end() == 0
    return cli


def test_ls_and_show_say_when_and_what(office):
    items = office.json("schedules", "ls")["items"]
    assert [list(item) for item in items] == [ITEM] * 2
    daily, often = items
    assert (daily["id"], daily["cron"], daily["tz"], daily["every_ms"]) == ("daily", "30 7 * * *", "Europe/Rome", None)
    assert (often["id"], often["cron"], often["every_ms"], often["payload"]) == (
        "often",
        None,
        90_000,
        {"city": "Bari"},
    )
    assert daily["options"] == {"max_retries": 9, "priority": 4}
    assert office.json("schedules", "show", "daily") == daily
    told = office.call("schedules", "ls").out
    assert "30 7 * * * Europe/Rome" in told
    assert "every 1 min 30 s" in told
    assert "active" in office.call("schedules", "show", "often").out


def test_pause_and_resume(office):
    assert office.json("schedules", "pause", "daily")["is_paused"]
    assert "paused" in office.call("schedules", "ls").out
    assert not office.json("schedules", "resume", "daily")["is_paused"]


def test_run_makes_a_job_as_the_schedule_says(office):
    view = office.show(office.call("schedules", "run", "daily").out.strip())
    assert (view["name"], view["queue"], view["priority"], view["max_retries"]) == ("report", "office", 4, 9)
    assert (view["schedule_id"], view["payload"], view["meta"]) == ("daily", {"city": "Rome"}, {})


@pytest.mark.parametrize("app", ["office:q", "office:bare"])
def test_run_as_an_application_goes_through_its_middleware(office, app):
    answer = office.run("schedules", "run", "daily", "--app", app, store=False)
    assert answer.code == 0, answer
    view = office.show(answer.out.strip())
    assert view["meta"] == ({"by": "office"} if app == "office:q" else {})


def test_backfill_makes_what_is_missing(office):
    days = ("--after", "2026-03-01T00:00:00Z", "--before", "2026-03-04T00:00:00Z")
    assert office.json("schedules", "backfill", "daily", *days) == {"id": "daily", "made": 3}
    assert office.call("schedules", "backfill", "daily", *days).out == "0 jobs made\n"


def test_rm_deletes_and_says_if_there_was_nothing(office):
    assert office.json("schedules", "rm", "often") == {"id": "often", "removed": True}
    again = office.call("schedules", "rm", "often")
    assert (again.code, again.out) == (1, "")
    assert "schedule 'often' does not exist; `psyqueue schedules ls` lists those that do" in again.err
    assert [item["id"] for item in office.json("schedules", "ls")["items"]] == ["daily"]


def test_next_needs_no_store(cli):
    asked = ("30 2 * * *", "--tz", "Europe/Rome", "--after", "2026-03-28T12:00Z", "--count", 2)
    told = cli.json("schedules", "next", *asked)
    assert [datetime.fromisoformat(at).isoformat() for at in told["next"]] == [
        "2026-03-29T01:00:00+00:00",
        "2026-03-30T00:30:00+00:00",
    ]
    assert len(cli.call("schedules", "next", "--every", "5m").out.splitlines()) == 5


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("show", "nobody"), 1, "schedule 'nobody' does not exist"),
        (("pause", "nobody"), 1, "schedule 'nobody' does not exist"),
        (("resume", "nobody"), 1, "schedule 'nobody' does not exist"),
        (("run", "nobody"), 1, "schedule 'nobody' does not exist"),
        (("backfill", "daily", "--after", "2026-03-01"), 2, "has no time zone"),
        (("backfill", "daily", "--after", "2020-01-01T00:00Z", "--before", "2026-01-01T00:00Z"), 2, "Do it in parts"),
        (("next",), 2, "option cron=None: is missing, and so is every"),
        (("next", "7 o'clock"), 2, "cannot be read"),
        (("next", "@daily", "--tz", "Mars/Base"), 2, "is no time zone"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(office, arguments, code, told):
    answer = office.call("schedules", *arguments)
    assert (answer.code, answer.out) == (code, "")
    assert told in answer.err
    assert "Traceback" not in answer.err


def test_a_store_that_is_not_there_is_not_made(cli):
    answer = cli.call("schedules", "ls", "--backend", "sqlite:./none.db")
    assert answer.code == 2
    assert not (cli.folder / "none.db").exists()
