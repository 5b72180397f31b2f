"""Schedules: compare-and-set definitions, and fires that happen once per nominal time."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from psyqueue.backend import Schedule
from psyqueue.errors import StateConflict
from psyqueue.testing.conformance.handle import Store, job


async def define(store: Store, schedule_id: str = "n", next_at_ms: int | None = 1_000) -> Schedule:
    return await store.backend.put_schedule(store.op(), Schedule(id=schedule_id, spec=b"{}", next_at_ms=next_at_ms))


async def listed(store: Store) -> dict[str, Schedule]:
    found, cursor = await store.backend.list_schedules(None, 100)
    assert cursor is None
    return {schedule.id: schedule for schedule in found}


async def test_a_schedule_comes_back_as_it_was_put(store: Store) -> None:
    sent = Schedule(id="n", spec=b'{"cron":"* * * * *"}', next_at_ms=7, last_nominal_ms=3, paused=True)
    saved = await store.backend.put_schedule(store.op(), sent)
    assert saved == replace(sent, version=1)
    assert await listed(store) == {"n": saved}


async def test_putting_a_schedule_is_compare_and_set_on_its_version(store: Store) -> None:
    first = await define(store)
    second = await store.backend.put_schedule(store.op(), replace(first, spec=b"[2]"))
    assert (second.version, second.spec) == (2, b"[2]")
    for version in (0, 1, 3):
        with pytest.raises(StateConflict) as caught:
            await store.backend.put_schedule(store.op(), replace(first, version=version))
        assert caught.value.found == 2
    with pytest.raises(StateConflict):
        await store.backend.put_schedule(store.op(), Schedule(id="new", spec=b"{}", version=1))
    assert await listed(store) == {"n": second}


async def test_delete_is_compare_and_set_too(store: Store) -> None:
    schedule = await define(store)
    with pytest.raises(StateConflict):
        await store.backend.put_schedule(store.op(), replace(schedule, version=9), delete=True)
    await store.backend.put_schedule(store.op(), schedule, delete=True)
    assert await listed(store) == {}
    assert (await define(store)).version >= 1


async def test_schedules_are_listed_by_id_in_pages(store: Store) -> None:
    for each in ("c", "a", "d", "b", "e"):
        await define(store, each)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page, cursor = await store.backend.list_schedules(cursor, 2)
        assert len(page) <= 2
        seen += [schedule.id for schedule in page]
        if cursor is None:
            break
    assert seen == list("abcde")


async def test_a_fire_enqueues_its_jobs_and_sets_when_it_is_next_due(store: Store) -> None:
    schedule = await define(store)
    assert await store.backend.fire(store.op(), schedule, 1_000, (job("a", schedule_id="n"), job("b")), 2_000)
    assert await store.statuses("a", "b") == ["pending", "pending"]
    found = (await listed(store))["n"]
    assert (found.next_at_ms, found.last_nominal_ms, found.version) == (2_000, 1_000, schedule.version)


async def test_a_nominal_time_fires_once(store: Store) -> None:
    schedule = await define(store)
    assert await store.backend.fire(store.op(), schedule, 1_000, (job("a"),), 2_000)
    before = await listed(store)
    assert not await store.backend.fire(store.op(), schedule, 1_000, (job("b"),), 3_000)
    assert await store.status("b") is None
    assert await listed(store) == before
    assert await store.backend.fire(store.op(), schedule, 2_000, (job("c"),), 3_000)


async def test_a_fire_of_another_version_or_of_no_schedule_is_nothing(store: Store) -> None:
    old = await define(store)
    new = await store.backend.put_schedule(store.op(), replace(old, next_at_ms=5_000))
    assert not await store.backend.fire(store.op(), old, 1_000, (job("a"),), 2_000)
    assert not await store.backend.fire(store.op(), replace(new, version=7), 1_000, (job("a"),), 2_000)
    assert not await store.backend.fire(store.op(), replace(new, id="gone"), 1_000, (job("a"),), 2_000)
    assert await store.status("a") is None
    assert await listed(store) == {"n": new}
    await store.backend.put_schedule(store.op(), new, delete=True)
    assert not await store.backend.fire(store.op(), new, 1_000, (job("a"),), 2_000)


async def test_a_nominal_time_fires_once_over_all_versions(store: Store) -> None:
    old = await define(store)
    assert await store.backend.fire(store.op(), old, 1_000, (job("a"),), 2_000)
    (current,) = (await listed(store)).values()
    new = await store.backend.put_schedule(store.op(), replace(current, spec=b"[]"))
    assert not await store.backend.fire(store.op(), new, 1_000, (job("b"),), 2_000)
    assert await store.backend.fire(store.op(), new, 2_000, (job("c"),), 3_000)


async def test_a_fire_whose_job_is_there_already_counts(store: Store) -> None:
    schedule = await define(store)
    await store.add("a", digest=b"1")
    assert await store.backend.fire(store.op(), schedule, 1_000, (job("a", digest=b"2"),), 2_000)
    assert (await listed(store))["n"].last_nominal_ms == 1_000


async def test_limits_do_not_stop_a_fire(store: Store) -> None:
    schedule = await define(store)
    await store.limit(pending_max=0)
    assert await store.backend.fire(store.op(), schedule, 1_000, (job("a"), job("b")), None)
    assert await store.statuses("a", "b") == ["pending", "pending"]
    assert (await listed(store))["n"].next_at_ms is None


async def test_schedules_fire_apart_from_each_other(store: Store) -> None:
    one, two = await define(store, "one"), await define(store, "two")
    assert await store.backend.fire(store.op(), one, 1_000, (job("a"),), None)
    assert await store.backend.fire(store.op(), two, 1_000, (job("b"),), None)
