"""What a process has begun when the switch comes, or asks of the old store since it does not know of it yet."""

from __future__ import annotations

from typing import Any

import pytest

from moving.rig import EVERYTHING, application, live
from psyqueue.backend import Effects, Filter, Gate, Limits, Schedule
from psyqueue.errors import InvalidOption
from psyqueue.testing.conformance import Store
from psyqueue.testing.conformance.handle import add, job


async def rest_of_list(app: Store, cursor: str | None) -> list[str]:
    found: list[str] = []
    while cursor is not None:
        page = await app.backend.list_jobs(Filter(), cursor, 1)
        found += [view.job.id for view in page.jobs]
        cursor = page.cursor
    return found


async def test_a_list_that_was_begun_before_the_switch_goes_on_through_both_stores(stores):
    app = await application(*stores)
    await app.enqueue(job("a"), job("b"), job("c"))
    page = await app.backend.list_jobs(Filter(), None, 1)
    await live(stores[0], stores[1], selection=EVERYTHING).begin()
    await app.add("d")
    seen = [view.job.id for view in page.jobs]
    assert sorted(seen + await rest_of_list(app, page.cursor)) == ["a", "b", "c", "d"]


async def test_a_list_of_two_stores_has_to_begin_anew_when_there_is_one(stores):
    app = await application(*stores)
    await app.enqueue(job("a"), job("b"))
    await live(stores[0], stores[1], selection=EVERYTHING).begin()
    page = await app.backend.list_jobs(Filter(), None, 1)
    await live(stores[0], stores[1], selection=EVERYTHING).finish()
    with pytest.raises(InvalidOption, match="first page"):
        await app.backend.list_jobs(Filter(), page.cursor, 1)


async def switched_meanwhile(stores: tuple[Store, Store], verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call of a verb of the old store comes there when the switch has just been made."""
    old, new = stores
    found = getattr(old.backend, verb)

    async def late(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(old.backend, verb, found)
        await live(old, new, selection=EVERYTHING).begin()
        return await found(*arguments, **options)

    monkeypatch.setattr(old.backend, verb, late)


async def test_a_schedule_that_comes_in_the_moment_of_the_switch_is_in_the_new_store(stores, monkeypatch):
    app = await application(*stores)
    await switched_meanwhile(stores, "put_schedule", monkeypatch)
    await app.backend.put_schedule(app.op(), Schedule(id="nightly", spec=b"{}"))
    found = [[each.id for each in (await store.backend.list_schedules(None, 9))[0]] for store in stores]
    assert found == [[], ["nightly"]]


async def test_a_schedule_fires_in_one_store_also_where_its_jobs_belong_to_a_line_of_the_old_one(stores, monkeypatch):
    old, new = stores
    late, other = [await application(old, new, name) for name in ("late", "other")]
    await old.add("first", gate=Gate("g"))
    schedule = await old.backend.put_schedule(old.op(), Schedule(id="nightly", spec=b"{}", next_at_ms=5))
    await switched_meanwhile(stores, "fire", monkeypatch)
    assert await late.backend.fire(late.op(), schedule, 5, (job("fired", gate=Gate("g")),), 9)
    await other.add("learns")
    assert not await other.backend.fire(other.op(), schedule, 5, (job("again", gate=Gate("g")),), 9)
    assert await other.statuses("fired", "again") == ["pending", None]


async def test_limits_that_come_in_the_moment_of_the_switch_are_in_both_stores(stores, monkeypatch):
    app = await application(*stores)
    await app.limit(active_max=1)
    await switched_meanwhile(stores, "put_limits", monkeypatch)
    await app.backend.put_limits(app.op(), (Limits(queue="q", active_max=7),), Effects(writes=(add("n"),)))
    assert [(await store.queue()).limits.active_max for store in stores] == [7, 7]
    written = await app.read("n")
    assert written is not None
    assert written.value == b"1"
