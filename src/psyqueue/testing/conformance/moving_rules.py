"""Moving house: what is refused, what is dropped, and that a frozen store stands still."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from psyqueue.backend import (
    PARTS,
    Change,
    Dependency,
    Filter,
    Gate,
    Idempotency,
    Limits,
    Mode,
    MovedJob,
    MovedNeed,
    Numbers,
    Part,
    Unique,
)
from psyqueue.errors import (
    IdConflict,
    InvalidState,
    KeyConflict,
    NamespaceFrozen,
    NamespaceMoved,
    TooLarge,
    UnknownDependency,
)
from psyqueue.testing.conformance.handle import DAY_MS, PAGE_MAX, Store, ack, add, job, put
from psyqueue.testing.conformance.modes import switch
from psyqueue.testing.conformance.moving_house import drop, exported, furnish, take_in


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────────
async def moved_job(store: Store, job_id: str, **changes: Any) -> MovedJob:
    found: MovedJob
    (found,) = [each for each in await exported(store, "jobs") if each.job.id == job_id]
    return replace(found, **changes)


async def test_nothing_startable_is_taken_into_an_open_store(store: Store, elsewhere: Store) -> None:
    await store.enqueue(job("a"), job("b"))
    await switch(elsewhere, "open")
    for item in (await moved_job(store, "a"), Numbers(5, 5), Limits(queue="q")):
        with pytest.raises(InvalidState):
            await take_in(elsewhere, await moved_job(store, "b", held=True), item)
    assert await elsewhere.statuses("a", "b") == [None, None]


def by_job(needs: list[Any]) -> list[Any]:
    """A store that does not stand still gives pages in any order."""
    return sorted(needs, key=lambda each: (each.job_id, each.parent_id))


async def test_everything_is_taken_in_while_nothing_can_start(store: Store, elsewhere: Store) -> None:
    await furnish(store)
    await switch(store, "frozen")
    await switch(elsewhere, "filling")
    await take_in(elsewhere, Numbers(1_000, 1_000))
    await elsewhere.add("newcomer", queue="newcomers")
    for part in PARTS:
        await take_in(elsewhere, *(await exported(store, part)))
    jobs = {each.job.id: each.number for each in await exported(elsewhere, "jobs")}
    assert jobs.pop("newcomer") > max(jobs.values())
    assert jobs == {each.job.id: each.number for each in await exported(store, "jobs")}
    assert by_job(await exported(elsewhere, "needs")) == by_job(await exported(store, "needs"))
    assert await elsewhere.broken() == []


async def test_a_job_whose_gate_is_full_waits_in_line(store: Store, elsewhere: Store) -> None:
    await store.enqueue(job("a", gate=Gate("g", 2)), job("b", gate=Gate("g", 2)), job("c", gate=Gate("g", 2)))
    await switch(store, "frozen")
    await switch(elsewhere, "filling")
    await take_in(elsewhere, Numbers(100, 100))
    await elsewhere.add("n", gate=Gate("g", 2))
    await take_in(elsewhere, *(await exported(store, "jobs")))
    assert await elsewhere.statuses("a", "b", "c", "n") == ["pending", "waiting", "waiting", "pending"]
    assert await elsewhere.broken() == []
    await switch(elsewhere, "open")
    assert [await elsewhere.run() for _ in range(4)] == ["a", "n", "b", "c"]


async def test_held_jobs_are_taken_into_an_open_store_and_do_not_start(store: Store, elsewhere: Store) -> None:
    await store.enqueue(job("p"), job("a", needs=(Dependency("p"),)), job("s", delay_ms=5), job("g", gate=Gate("g")))
    await store.amend(Change(kind="hold"), "p", "a", "s", "g")
    await switch(elsewhere, "open")
    await take_in(elsewhere, *(await exported(store, "jobs")))
    await take_in(elsewhere, *(await exported(store, "needs")))
    await elsewhere.advance(10)
    assert await elsewhere.dequeue() == ()
    jobs = await exported(store, "jobs")
    assert await drop(store, *jobs) == 3, "p is needed"
    assert await drop(store, *jobs) == 1
    assert await store.walk(Filter()) == []
    await elsewhere.amend(Change(kind="unhold"), "p", "a", "s", "g")
    assert sorted(await elsewhere.dequeue_ids()) == ["g", "p", "s"]
    assert await elsewhere.status("a") == "waiting"


async def test_an_active_job_is_told_and_not_taken_in(store: Store, elsewhere: Store) -> None:
    await store.add("a")
    await store.dequeue_one()
    moved = await moved_job(store, "a")
    assert moved.status == "active"
    with pytest.raises(InvalidState):
        await take_in(elsewhere, moved)
    await switch(store, "frozen")
    assert await drop(store, moved) == 0
    assert await store.status("a") == "active"


async def test_other_content_by_the_same_id_is_a_conflict(store: Store, elsewhere: Store) -> None:
    await store.enqueue(job("a", digest=b"one"), job("b"))
    items = [await moved_job(store, "b"), await moved_job(store, "a")]
    await take_in(elsewhere, items[1])
    other = replace(items[1], job=replace(items[1].job, digest=b"two"))
    with pytest.raises(IdConflict):
        await take_in(elsewhere, items[0], other)
    assert await elsewhere.statuses("a", "b") == ["pending", None]
    assert await drop(elsewhere, other) == 0


async def test_keys_that_other_jobs_have_are_conflicts(store: Store, elsewhere: Store) -> None:
    await store.enqueue(job("a", unique=Unique("u")), job("b", idempotency=Idempotency("i")))
    a = await moved_job(store, "a")
    (key,) = await exported(store, "keys")
    await take_in(elsewhere, a, key)
    with pytest.raises(KeyConflict):
        await take_in(elsewhere, replace(a, job=replace(a.job, id="z"), number=77, ready_number=77))
    with pytest.raises(KeyConflict):
        await take_in(elsewhere, replace(key, job_id="z"))
    assert await elsewhere.statuses("a", "z") == ["pending", None]


async def test_a_need_wants_both_its_jobs(store: Store, elsewhere: Store) -> None:
    await store.enqueue(job("p"), job("a", needs=(Dependency("p"),)))
    await take_in(elsewhere, await moved_job(store, "a"), await moved_job(store, "p"))
    with pytest.raises(UnknownDependency):
        await take_in(elsewhere, MovedNeed("a", "nobody", ("completed",), False))
    with pytest.raises(UnknownDependency):
        await take_in(elsewhere, MovedNeed("nobody", "p", ("completed",), False))
    await take_in(elsewhere, *(await exported(store, "needs")))


async def test_nothing_is_taken_in_by_a_store_that_has_moved_itself(store: Store, elsewhere: Store) -> None:
    await store.add("a")
    await switch(elsewhere, "moved", "a third place")
    with pytest.raises(NamespaceMoved):
        await take_in(elsewhere, await moved_job(store, "a", held=True))


async def test_a_call_is_bounded(store: Store, elsewhere: Store) -> None:
    await store.add("a")
    moved = await moved_job(store, "a")
    with pytest.raises(TooLarge):
        await take_in(elsewhere, *[moved] * (PAGE_MAX + 1))
    with pytest.raises(TooLarge):
        await store.backend.export_part("jobs", None, PAGE_MAX + 1)


# ── dropping ──────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_dropped_job_lets_go_of_all_it_has(store: Store) -> None:
    await store.enqueue(
        job("a", unique=Unique("u"), gate=Gate("g"), lane="gold"), job("b", gate=Gate("g")), job("p"),
        job("c", needs=(Dependency("p"),)),
    )  # fmt: skip
    every = await exported(store, "jobs")
    assert await drop(store, *every) == 0, "neither held nor frozen"
    await store.amend(Change(kind="hold"), "a", "p", "c")
    assert await drop(store, *every) == 2
    assert await drop(store, *every) == 1, "p, when nobody needs it any more"
    assert await store.statuses("a", "b", "p", "c") == [None, "waiting", None, None]
    assert await exported(store, "needs") == []
    assert (await store.add("d", unique=Unique("u", on_conflict="reject"))).created
    assert (await store.add("e", gate=Gate("g"))).status == "waiting", "in line behind b"


async def test_only_what_is_the_same_is_dropped(store: Store, elsewhere: Store) -> None:
    await furnish(store)
    await switch(store, "frozen")
    for part in PARTS:
        await take_in(elsewhere, *(await exported(store, part)))
    await switch(elsewhere, "open")
    await elsewhere.limit(active_max=1)
    await elsewhere.write(add("n"))
    await elsewhere.backend.lock(elsewhere.op(), "free", "b", 1_000)
    await switch(elsewhere, "frozen")
    parts: tuple[Part, ...] = ("limits", "state", "locks")
    for part in parts:
        items = await exported(store, part)
        assert await drop(elsewhere, *items) == len(items) - 1
        assert len(await exported(elsewhere, part)) == 1


async def test_what_another_job_waits_for_is_not_dropped_from_a_working_store(store: Store) -> None:
    await store.enqueue(job("p"), job("a", needs=(Dependency("p"),)))
    await store.amend(Change(kind="hold"), "p")
    parent = await moved_job(store, "p")
    assert await drop(store, parent) == 0
    await store.amend(Change(kind="unhold"), "p")
    assert await store.run() == "p"
    assert await store.status("a") == "pending"


# ── a frozen store stands still ───────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("mode", ["frozen", "moved"])
async def test_nothing_changes_by_itself_while_it_is_copied(store: Store, mode: Mode) -> None:
    await furnish(store)
    await store.limit("past", retain_ended=(1, 1), retain_dead=(1, 1))
    await switch(store, mode)
    await store.advance(3 * DAY_MS)
    before = await exported(store, "jobs")
    done = await store.backend.promote(("q", "past", "other"), PAGE_MAX)
    assert (done.ids, done.more) == ((), False)
    assert (await store.backend.prune(PAGE_MAX)).ids == ()
    assert (await store.backend.reap(PAGE_MAX)).ids == ()
    assert await exported(store, "jobs") == before
    with pytest.raises(NamespaceFrozen):
        await store.write(put("k"))
    with pytest.raises(NamespaceFrozen):
        await store.backend.lock(store.op(), "leader", "b", 1_000)


async def test_what_ended_jobs_set_free_still_moves_while_it_is_frozen(store: Store) -> None:
    await store.enqueue(job("p"), job("a", needs=(Dependency("p"),)))
    delivery = await store.dequeue_one()
    await switch(store, "frozen")
    await store.settle(ack(delivery))
    while (await store.backend.promote(("q",), PAGE_MAX)).more:
        pass
    assert await store.status("a") == "pending"
