"""`version` and `upgrades`: jobs of an older release come to the handler of this one as if they were of today."""

from __future__ import annotations

from typing import Any

import pytest

from api import process_handlers as elsewhere
from psyqueue import ConfigError, Context, InvalidOption, PsyQueue


def split(payload: dict[str, Any]) -> dict[str, Any]:
    first, _, last = payload["name"].partition(" ")
    return {"first": first, "last": last}


def shout(payload: dict[str, Any]) -> dict[str, Any]:
    return {**payload, "last": payload["last"].upper()}


async def old(name: str) -> None: ...


async def middle(first: str, last: str) -> None: ...


async def latest(ctx: Context, first: str, last: str) -> Any:
    return [ctx.job.payload, first, last]


async def plainest(first: str, last: str) -> Any:
    return [first, last]


async def enqueued_by(q: PsyQueue, fn: Any, *args: str, **options: Any) -> str:
    """The id of a job that another release enqueued."""
    handler = q.handle("greet", fn, queue="work", **options)
    async with q:
        return (await handler.enqueue(*args)).id


@pytest.mark.parametrize("store", ["sqlite", "redis", "postgres"], indirect=True)
@pytest.mark.parametrize("fn", [latest, plainest])
async def test_jobs_of_every_older_version_are_brought_up_to_date(make, fn):
    ids = [
        await enqueued_by(make(), old, "ada lovelace"),
        await enqueued_by(make(), middle, "ada", "lovelace", version=2),
        await enqueued_by(make(), middle, "ada", "LOVELACE", version=3),
    ]
    q = make()
    seen = []

    async def look(ctx: Context, call_next: Any) -> Any:
        seen.append(ctx.job.payload)
        return await call_next()

    q.pipeline("process", look)
    q.handle("hail", fn, queue="work", version=3, upgrades={1: split, 2: shout}, aliases=["greet"])
    today = {"first": "ada", "last": "LOVELACE"}
    async with q:
        for number, job_id in enumerate(ids, 1):
            assert await q.process_next("work")
            view = await q.get(job_id)
            assert view is not None
            assert view.result == ([today, *today.values()] if fn is latest else list(today.values()))
            assert view.schema_version == number
        assert seen == [today] * 3


ON_DISK = pytest.mark.parametrize("store", ["sqlite"], indirect=True)


@ON_DISK
async def test_a_version_without_a_step_is_taken_as_it_is(make):
    await enqueued_by(make(), middle, "ada", "lovelace")
    q = make()
    q.handle("greet", plainest, queue="work", version=3, upgrades={2: shout})
    async with q:
        assert await q.process_next("work")
        assert [view.result for view in await q.jobs()] == [["ada", "LOVELACE"]]


@ON_DISK
async def test_a_step_that_fails_fails_the_run(make):
    await enqueued_by(make(), middle, "ada", "lovelace")
    q = make()
    q.handle("greet", plainest, queue="work", version=2, upgrades={1: split})
    async with q:
        assert await q.process_next("work")
        (view,) = await q.jobs()
        assert (view.status, view.attempt, view.errors[-1]["type"]) == ("scheduled", 1, "KeyError")


@ON_DISK
async def test_a_handler_in_a_process_gets_the_payload_of_today(make):
    await enqueued_by(make(), old, "ada")
    q = make()
    upgrades = {1: lambda it: {"who": it["name"]}}
    q.handle("greet", elsewhere.greet, queue="work", mode="process", version=2, upgrades=upgrades)
    async with q:
        assert await q.process_next("work")
        assert [view.result for view in await q.jobs()] == ["hello ada"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"upgrades": [split]}, "is no mapping"),
        ({"upgrades": {1: split}}, r"is no older version of handler 'h' \(none: give version=2\)"),
        ({"version": 3, "upgrades": {3: split}}, r"is no older version of handler 'h' \(1 to 2\)"),
        ({"version": 3, "upgrades": {"1": split}}, "is no older version"),
        ({"version": 2, "upgrades": {1: old}}, "of version 1 is no plain function of the payload"),
        ({"version": 2, "upgrades": {1: lambda: None}}, "of version 1 is no plain function of the payload"),
    ],
)
def test_what_cannot_be_an_upgrade_is_refused(q, options, problem):
    with pytest.raises((InvalidOption, ConfigError), match=problem):
        q.handle("h", middle, **options)
