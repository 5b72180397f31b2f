"""What a process asks of the old store in the very moment of the switch, when it does not know of it yet."""

from __future__ import annotations

from typing import Any

import pytest

from moving.rig import EVERYTHING, application, live
from psyqueue.backend import Effects, Gate, Limits, Schedule
from psyqueue.testing.conformance import Store
from psyqueue.testing.conformance.handle import add, job


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
