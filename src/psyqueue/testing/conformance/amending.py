"""Amend: what operators do to jobs: cancel, replay, delete, priority, run_at, finish, hold."""

from __future__ import annotations

from typing import Any

import pytest

from psyqueue.backend import Change, Dependency, Effects, Filter, Gate, Record
from psyqueue.errors import StateConflict
from psyqueue.job import STATUSES, TERMINAL, UNSTARTED, Status
from psyqueue.testing.conformance.handle import PAGE_MAX, Store, add, job, put, retry
from psyqueue.testing.conformance.reading import one_of_each_status

FITTING: dict[Any, frozenset[Status]] = {
    "cancel": frozenset((*UNSTARTED, "active")),
    "replay": frozenset(("dead",)),
    "delete": TERMINAL,
    "priority": UNSTARTED,
    "run_at": UNSTARTED,
    "finish": UNSTARTED,
    "hold": frozenset(STATUSES) - {"active"},
    "unhold": frozenset(),
}


@pytest.mark.parametrize("kind", FITTING)
async def test_a_change_counts_for_fitting_statuses_and_skips_the_others(store: Store, kind: Any) -> None:
    ids = await one_of_each_status(store)
    before = {job_id: await store.view(job_id) for job_id in ids.values()}
    # The waiting job comes first: the end of the scheduled one, which it needs, would move it.
    for status, job_id in ids.items():
        amended = await store.amend(Change(kind=kind, priority=3, run_at_ms=before[job_id].run_at_ms + 5), job_id)
        if status in FITTING[kind]:
            assert (amended.changed, amended.skipped) == ((job_id,), ()), status
        else:
            assert (amended.changed, amended.skipped) == ((), ((job_id, status),)), status
            assert await store.view(job_id) == before[job_id], status


async def test_ids_that_do_not_exist_are_skipped_without_a_status(store: Store) -> None:
    await store.add("a")
    amended = await store.amend(Change(kind="cancel"), "nobody", "a")
    assert (amended.changed, amended.skipped) == (("a",), (("nobody", None),))


async def test_a_cancelled_job_never_runs(store: Store) -> None:
    await store.enqueue(job("a"), job("b", delay_ms=10), job("c", needs=(Dependency("a", ("cancelled",)),)))
    await store.cancel("c", reason="first")
    await store.cancel("a", "b", reason="enough")
    assert await store.statuses("a", "b", "c") == ["cancelled"] * 3
    found = await store.view("a")
    assert (found.reason, found.completed_at_ms) == ("enough", await store.now_ms())
    await store.advance(10)
    assert await store.dequeue() == ()


async def test_a_cancel_of_a_running_job_is_only_asked_for(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    assert (await store.cancel("a", reason="enough")).changed == ("a",)
    found = await store.view("a")
    assert (found.status, found.cancel_requested) == ("active", True)
    assert (await store.ack(delivery)).verdict == "ok"


# ── replay ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_replayed_job_starts_anew_with_its_errors_kept(store: Store) -> None:
    await store.add("a", max_retries=1)
    await store.retry(await store.dequeue_one(), error=b"1")
    await store.retry(await store.dequeue_one(), error=b"2")
    before = await store.view("a")
    assert before.status == "dead"
    assert (await store.amend(Change(kind="replay"), "a")).changed == ("a",)
    found = await store.view("a")
    assert (found.status, found.generation, found.attempt, found.lost) == ("pending", 1, 0, 0)
    assert (found.errors, found.reason, found.completed_at_ms) == ((b"1", b"2"), "", None)
    delivery = await store.dequeue_one()
    assert (delivery.attempt, delivery.generation, delivery.fence > before.fence) == (1, 1, True)
    await store.retry(delivery)
    assert (await store.dequeue_one()).attempt == 2


async def test_a_replayed_job_goes_to_the_end_of_the_line(store: Store) -> None:
    await store.add("a")
    await store.bring_dead("a")
    await store.add("b")
    await store.amend(Change(kind="replay"), "a")
    assert await store.dequeue_ids() == ["b", "a"]


async def test_a_replay_no_longer_waits_for_what_the_job_once_needed(store: Store) -> None:
    """Who replays a job wants it to run; its parents may be gone. Only its gate can hold it."""
    await store.enqueue(job("p", "other"), job("g", "other", gate=Gate("g")))
    for each, gate in (("a", None), ("b", Gate("g"))):
        await store.add(each, needs=(Dependency("p"),), expires_in_ms=1_000, gate=gate)
    await store.advance(1_000)
    await store.backend.promote(("q",), PAGE_MAX)
    assert await store.statuses("a", "b") == ["dead", "dead"]
    assert (await store.amend(Change(kind="replay"), "a", "b")).changed == ("a", "b")
    assert await store.statuses("a", "b") == ["pending", "waiting"]
    assert (await store.view("b")).blocked_by == ("gate:g",)
    assert await store.broken() == []
    assert await store.run() == "a"
    await store.cancel("g")
    assert await store.run() == "b"


async def test_replaying_twice_is_replaying_once(store: Store) -> None:
    await store.add("a")
    await store.bring_dead("a")
    await store.amend(Change(kind="replay"), "a")
    amended = await store.amend(Change(kind="replay"), "a")
    assert (amended.changed, amended.skipped) == ((), (("a", "pending"),))
    assert await store.dequeue_ids() == ["a"]
    assert (await store.view("a")).generation == 1


async def test_an_old_token_does_not_settle_the_next_generation(store: Store) -> None:
    await store.add("a")
    old = await store.dequeue_one()
    await store.kill(old)
    await store.amend(Change(kind="replay"), "a")
    await store.dequeue_one()
    assert (await store.ack(old)).verdict == "lost"
    assert await store.status("a") == "active"


async def test_all_the_dead_are_replayed_by_a_walk(store: Store) -> None:
    """The reference touches the first 50."""
    ids = await store.fill(120, max_retries=0)
    await store.settle(*(retry(each) for each in await store.dequeue(count=120)))
    changed: list[str] = []
    cursor: str | None = None
    for _ in range(100):
        where = Filter(queues=("q",), statuses=("dead",))
        amended = await store.backend.amend(store.op(), where, Change(kind="replay"), cursor, 25)
        changed += amended.changed
        cursor = amended.cursor
        if cursor is None:
            break
    assert sorted(changed) == ids
    assert await store.count("pending") == 120


# ── delete ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_deleted_job_is_gone(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    await store.ack(delivery)
    assert (await store.amend(Change(kind="delete"), "a")).changed == ("a",)
    assert await store.status("a") is None
    assert await store.count("completed") == 0
    assert (await store.ack(delivery)).status is None
    assert (await store.add("a")).created


async def test_purging_the_dead_deletes_them(store: Store) -> None:
    """The reference marks them as failed."""
    await store.fill(3)
    a, b, c = await store.dequeue(count=3)
    await store.kill(a)
    await store.kill(b)
    amended = await store.backend.amend(
        store.op(), Filter(queues=("q",), statuses=("dead",)), Change(kind="delete"), None, PAGE_MAX
    )
    assert sorted(amended.changed) == [a.id, b.id]
    assert (await store.ack(c)).verdict == "ok"
    assert await store.walk(Filter()) == [c.id]


# ── priority, run_at ──────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_new_priority_moves_the_job(store: Store) -> None:
    await store.enqueue(job("a"), job("b"), job("c"), job("s", delay_ms=10))
    await store.amend(Change(kind="priority", priority=5), "c", "s")
    await store.amend(Change(kind="priority", priority=-5), "a")
    assert (await store.view("c")).job.priority == 5
    await store.advance(10)
    assert await store.dequeue_ids() == ["c", "s", "b", "a"]


async def test_a_new_priority_and_back_keeps_the_place(store: Store) -> None:
    await store.enqueue(job("a"), job("b"))
    for priority in (5, -5, 0):
        await store.amend(Change(kind="priority", priority=priority), "a")
    assert await store.dequeue_ids() == ["a", "b"]


async def test_run_at_moves_a_pending_job_ahead_and_a_scheduled_one_back(store: Store) -> None:
    now_ms = await store.now_ms()
    await store.enqueue(job("a"), job("s", delay_ms=9_999), job("w", needs=(Dependency("s"),)))
    await store.amend(Change(kind="run_at", run_at_ms=now_ms + 500), "a", "w")
    await store.amend(Change(kind="run_at", run_at_ms=now_ms), "s")
    assert await store.statuses("a", "w") == ["scheduled", "waiting"]
    assert [(await store.view(each)).run_at_ms - now_ms for each in "asw"] == [500, 0, 500]
    assert await store.dequeue_ids() == ["s"]
    await store.advance(500)
    assert await store.dequeue_ids() == ["a"]


# ── finish ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_finish_completes_a_job_that_nobody_ran(store: Store) -> None:
    await store.enqueue(job("a", delay_ms=10**9), job("c", needs=(Dependency("a"),)))
    amended = await store.amend(Change(kind="finish", result=b'{"signal":1}', reason="signal"), "a")
    assert amended.changed == ("a",)
    found = await store.view("a")
    assert (found.status, found.result, found.attempt) == ("completed", b'{"signal":1}', 0)
    assert found.completed_at_ms == await store.now_ms()
    assert await store.dequeue_ids() == ["c"]


# ── hold ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_held_job_is_not_startable_and_keeps_its_place(store: Store) -> None:
    await store.enqueue(job("a"), job("b"), job("s", delay_ms=10), job("w", needs=(Dependency("b"),)))
    assert (await store.amend(Change(kind="hold"), "a", "s", "w")).changed == ("a", "s", "w")
    found = await store.view("a")
    assert (found.held, found.status) == (True, "pending")
    await store.advance(10)
    await store.backend.promote(("q",), PAGE_MAX)
    assert await store.run() == "b"
    assert await store.dequeue() == ()
    await store.add("late")
    assert (await store.amend(Change(kind="unhold"), "a", "s", "w")).changed == ("a", "s", "w")
    ids = await store.dequeue_ids()
    assert ids[:2] == ["a", "late"]
    assert sorted(ids[2:]) == ["s", "w"]


@pytest.mark.parametrize("kind", ["cancel", "priority", "run_at", "finish", "hold"])
async def test_a_held_job_is_not_changeable(store: Store, kind: Any) -> None:
    await store.add("a")
    await store.amend(Change(kind="hold"), "a")
    before = await store.view("a")
    amended = await store.amend(Change(kind=kind, run_at_ms=10**13), "a")
    assert (amended.changed, amended.skipped) == ((), (("a", "pending"),))
    assert await store.view("a") == before


@pytest.mark.parametrize("kind", ["replay", "delete"])
async def test_a_held_ended_job_is_not_changeable(store: Store, kind: Any) -> None:
    await store.add("a")
    await store.bring_dead("a")
    await store.amend(Change(kind="hold"), "a")
    assert (await store.amend(Change(kind=kind), "a")).changed == ()
    await store.amend(Change(kind="unhold"), "a")
    assert (await store.amend(Change(kind=kind), "a")).changed == ("a",)


async def test_a_held_job_before_a_gate_lets_others_pass(store: Store) -> None:
    await store.enqueue(*(job(each, gate=Gate("g")) for each in "abc"))
    await store.amend(Change(kind="hold"), "b")
    assert await store.run() == "a"
    assert await store.run() == "c"
    await store.amend(Change(kind="unhold"), "b")
    assert await store.run() == "b"


# ── pages and effects ─────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_walk_changes_everything_that_matches_once(store: Store) -> None:
    ids = await store.fill(23)
    await store.add("x", "other")
    changed: list[str] = []
    cursor: str | None = None
    for _ in range(100):
        amended = await store.backend.amend(store.op(), Filter(queues=("q",)), Change(kind="cancel"), cursor, 5)
        assert len(amended.changed) + len(amended.skipped) <= 5
        changed += amended.changed
        cursor = amended.cursor
        if cursor is None:
            break
    assert sorted(changed) == ids
    assert await store.status("x") == "pending"


async def test_effects_apply_once_if_anything_was_changed(store: Store) -> None:
    await store.fill(3)
    effects = Effects(jobs=(job("f", "other"),), writes=(add("n"),), records=(Record("audit", b"1"),))
    await store.amend(Change(kind="cancel"), "q-0000", "q-0001", effects=effects)
    assert await store.write(add("n", 0)) == (1,)
    assert await store.status("f") == "pending"
    await store.amend(Change(kind="cancel"), "q-0000", "nobody", effects=effects)
    assert await store.write(add("n", 0)) == (1,)
    assert len(await store.backend.read_records("audit", 0, 10)) == 1


async def test_effects_that_cannot_be_refuse_the_change(store: Store) -> None:
    await store.add("a")
    with pytest.raises(StateConflict):
        await store.amend(Change(kind="cancel"), "a", effects=Effects(writes=(put("k", expected=9),)))
    assert await store.status("a") == "pending"
