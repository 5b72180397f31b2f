"""A move from one store to another: complete, once, whatever dies on the way; and what is refused."""

from __future__ import annotations

import pytest

from moving.rig import Killed, Life, content, mover, startable_in
from psyqueue.backend import (
    Change,
    Dependency,
    Effects,
    Filter,
    Idempotency,
    Record,
    Schedule,
    Unique,
)
from psyqueue.errors import InvalidOption, InvalidState, NamespaceMoved
from psyqueue.moving import Progress, Selection
from psyqueue.testing.conformance import Store
from psyqueue.testing.conformance.handle import LEASE_MS, job, put
from psyqueue.testing.conformance.modes import switch
from psyqueue.testing.conformance.moving_house import furnish

EVERYTHING = Selection.of(("completed", "cancelled"))
STARTABLE = ("pending", "scheduled")


async def mode(store: Store) -> str:
    return (await store.backend.info()).mode


# ── complete ──────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_everything_moves_between_all_stores(ends):
    old, new = ends
    await furnish(old)
    await new.advance(await old.now_ms() - await new.now_ms())
    before = await content(old)
    verified = await mover(old, new, selection=EVERYTHING).run()
    assert verified.ok
    assert verified.source
    assert await content(new) == before
    assert (await mode(old), await mode(new)) == ("moved", "open")
    assert await new.broken() == []
    with pytest.raises(NamespaceMoved, match="new"):
        await old.add("late")
    assert (await new.add("late")).created
    await new.dequeue(count=5)


async def test_what_has_ended_stays_behind_unless_it_is_asked_for_or_needed(stores):
    old, new = stores
    await old.enqueue(job("plain"), job("needed"))
    for delivery in await old.dequeue(count=2):
        await old.ack(delivery)
    await old.enqueue(job("p"), job("child", needs=(Dependency("needed"), Dependency("p"))), job("gone"))
    await old.cancel("gone")
    plan = await mover(old, new).plan()
    verified = await mover(old, new).run()
    assert {(row.queue, row.status): (row.source, row.destination) for row in plan.rows} == {
        group: (count, 0) for group, (count, _) in verified.source.items() if group[0]
    }
    assert await new.statuses("plain", "needed", "child", "p", "gone") == [
        None, "completed", "waiting", "pending", None
    ]  # fmt: skip
    assert sum(count for count, _ in verified.source.values()) == 5, "three jobs and two needs"
    await new.run()
    assert await new.status("child") == "pending"


@pytest.mark.parametrize("status", ["pending", "nonsense", "dead"])
def test_only_ended_jobs_can_be_included(status):
    with pytest.raises(InvalidOption, match=status):
        Selection.of((status,))


async def test_more_than_a_page_moves_in_order(stores):
    old, new = stores
    ids = await old.fill(1_203)
    told: list[Progress] = []
    await mover(old, new, tell=told.append).run()
    assert [each for _ in range(3) for each in await new.dequeue_ids()] == ids
    assert max(step.done for step in told if step.doing == "copying") == 1_203
    assert {step.total for step in told if step.doing == "copying"} == {1_203}


# ── running jobs and workers ──────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("before", ["open", "draining"])
async def test_running_jobs_stop_a_move_and_leave_all_as_it_was(stores, before):
    old, new = stores
    await old.enqueue(job("a"), job("b"))
    await old.dequeue_one()
    await switch(old, before)
    with pytest.raises(InvalidState, match=r"1 job is still running \(workers: worker of s\).*--take-over"):
        await mover(old, new).run()
    assert (await mode(old), await mode(new)) == (before, "open")
    assert await old.run(session="t") == "b"


class Watch:
    """Time goes by only when somebody sleeps; then something happens."""

    def __init__(self, happens):
        self._happens = happens
        self._now_ms = 0

    def now_ms(self):
        return self._now_ms

    def mono_ms(self):
        return float(self._now_ms)

    async def sleep_ms(self, duration_ms):
        self._now_ms += int(duration_ms)
        await self._happens()


async def test_running_jobs_that_end_in_time_are_waited_for(stores):
    old, new = stores
    await old.enqueue(job("a"), job("b"))
    delivery = await old.dequeue_one()

    async def end() -> None:
        assert (await old.ack(delivery)).verdict == "ok"

    move = mover(old, new, wait_ms=60_000)
    move._source.clock = Watch(end)
    await move.run()
    assert await new.statuses("a", "b") == [None, "pending"]


async def test_running_jobs_of_dead_workers_are_taken_back_first(stores):
    old, new = stores
    await old.add("a")
    await old.dequeue_one()
    await old.backend.reap(1)
    await old.advance(LEASE_MS + 1)
    await mover(old, new, wait_ms=5_000).run()
    assert (await new.view("a")).lost == 1


async def test_running_jobs_are_taken_over_when_asked(stores):
    old, new = stores
    await old.enqueue(job("a"), job("b"))
    delivery = await old.dequeue_one()
    await mover(old, new, is_take_over=True).run()
    assert await new.statuses("a", "b") == ["pending", "pending"]
    assert (await new.dequeue_one()).id == "a"
    with pytest.raises(Exception, match="session"):
        await old.ack(delivery)


async def test_what_ended_jobs_set_free_moves_before_the_copy(stores):
    old, new = stores
    await old.add("p")
    await old.fill(600, "child", needs=(Dependency("p"),))
    delivery = await old.dequeue_one()
    await old.ack(delivery)
    assert await old.count("waiting", "child") > 0, "more than one step can move"
    await mover(old, new).run()
    assert await new.count("pending", "child") == 600


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_store_with_jobs_is_no_destination_unless_they_are_merged(stores):
    old, new = stores
    await old.fill(3)
    await new.fill(2, "other")
    with pytest.raises(InvalidState, match=r"new holds 2 jobs already.*--merge"):
        await mover(old, new).run()
    assert (await mode(old), await mode(new)) == ("open", "open")
    assert (await mover(old, new, is_merge=True).run()).ok
    assert (await new.count("pending"), await new.count("pending", "other")) == (3, 2)


async def test_a_store_with_other_things_is_no_destination_either(stores):
    old, new = stores
    await old.fill(1)
    await new.write(put("k"))
    with pytest.raises(InvalidState, match="state"):
        await mover(old, new).run()


async def test_a_merge_goes_on_as_one_although_it_is_not_said_again(stores):
    old, new = stores
    await furnish(old)
    await new.fill(2, "here")
    await new.write(put("there"))
    with pytest.raises(Killed):
        await mover(old, new, Life(9), is_merge=True).run()
    assert (await mover(old, new).run()).ok


async def test_merged_jobs_come_after_those_that_are_there(stores):
    old, new = stores
    await old.fill(3, "q")
    await new.enqueue(job("here"))
    await mover(old, new, is_merge=True).run()
    assert await new.dequeue_ids() == ["here", "q-0000", "q-0001", "q-0002"]


async def test_a_merge_keeps_what_the_destination_has(stores):
    old, new = stores
    await old.fill(2)
    await old.limit(active_max=1)
    await old.write(put("k", b'"old"'), put("only old"))
    await new.limit(active_max=7)
    await new.write(put("k", b'"new"'))
    plan = await mover(old, new, is_merge=True).plan()
    assert plan.shared == {"limits": ["q\nNone"], "state": ["k"]}
    await mover(old, new, is_merge=True).run()
    assert (await new.queue()).limits.active_max == 7
    assert (await new.read("k")).value == b'"new"'
    assert await new.read("only old") is not None


@pytest.mark.parametrize("shared", ["id", "stream"])
async def test_a_merge_refuses_what_it_cannot_tell_apart(stores, shared):
    old, new = stores
    for store in stores:
        if shared == "id":
            await store.add("a")
        else:
            await store.backend.write_state(store.op(), Effects(records=(Record("log", b"1"),)))
    with pytest.raises(InvalidState, match="in both stores"):
        await mover(old, new, is_merge=True).run()
    assert (await mode(old), await mode(new)) == ("open", "open")


async def test_a_store_that_has_moved_is_no_source_and_no_destination(stores):
    old, new = stores
    await old.fill(1)
    await mover(old, new).run()
    third = Store(type(old.backend)(test_clock=True), client="third")
    await third.backend.connect()
    with pytest.raises(NamespaceMoved, match="new"):
        await mover(old, third, names=("old", "third")).run()
    with pytest.raises(InvalidState, match="is moved"):
        await mover(third, old, names=("third", "old")).run()


async def test_a_destination_that_moves_on_is_not_opened_by_the_move_before(stores):
    old, new = stores
    await old.fill(3)
    await mover(old, new).run()
    third = Store(type(old.backend)(test_clock=True), client="third")
    await third.backend.connect()
    with pytest.raises(Killed):
        await mover(new, third, Life(4), names=("new", "third")).run()
    await mover(old, new).run()
    assert (await new.backend.info()).moved_to == "third"
    assert (await mode(new), await mode(third)) == ("frozen", "frozen")
    await mover(new, third, names=("new", "third")).run()
    assert len(await third.dequeue_ids()) == 3


@pytest.mark.parametrize("at", range(2, 7))
async def test_a_store_that_is_being_moved_into_is_no_source(stores, at):
    old, new = stores
    await old.fill(3)
    with pytest.raises(Killed):
        await mover(old, new, Life(at, is_late=True)).run()
    third = Store(type(old.backend)(test_clock=True), client="third")
    await third.backend.connect()
    with pytest.raises(InvalidState, match="a move into new is not finished"):
        await mover(new, third, names=("new", "third")).run()
    assert await mode(third) == "open"
    assert (await mover(old, new).run()).ok
    assert len(await new.dequeue_ids()) == 3


async def test_only_one_move_into_a_store_at_a_time(stores):
    old, new = stores
    await old.fill(1)
    with pytest.raises(Killed):
        await mover(old, new, Life(6)).run()
    third = Store(type(old.backend)(test_clock=True), client="third")
    await third.backend.connect()
    with pytest.raises(InvalidState, match="from old to new is not finished"):
        await mover(third, new, names=("third", "new")).run()
    with pytest.raises(InvalidState, match="other --queue or --include"):
        await mover(old, new, selection=EVERYTHING).run()
    await mover(old, new).run()


# ── killed, and done again ────────────────────────────────────────────────────────────────────────────────────────────
async def scene(old: Store) -> None:
    """Small, with all that a move has to keep."""
    await furnish(old)
    await old.fill(12, "many")


@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after"])
async def test_killed_at_any_call_and_run_again_it_ends_as_if_never_killed(stores, is_late):
    old, new = stores
    await scene(old)
    await new.advance(await old.now_ms() - await new.now_ms())
    wanted = await content(old)
    for calls in range(1, 200):
        try:
            await mover(old, new, Life(calls, is_late=is_late), EVERYTHING).run()
            break
        except Killed:
            ids = await startable_in(old, new)
            assert len(ids) == len(set(ids)), f"startable in two stores after call {calls}"
    assert calls > 3
    assert await content(new) == wanted
    assert (await mode(old), await mode(new)) == ("moved", "open")


@pytest.mark.parametrize("at", range(1, 40))
async def test_killed_once_at_one_call_and_run_again(stores, at):
    old, new = stores
    await scene(old)
    await new.advance(await old.now_ms() - await new.now_ms())
    wanted = await content(old)
    life = Life(at, is_late=at % 2 == 0)
    try:
        await mover(old, new, life, EVERYTHING).run()
    except Killed:
        ids = await startable_in(old, new)
        assert len(ids) == len(set(ids))
        assert (await mover(old, new, selection=EVERYTHING).run()).ok
    assert await content(new) == wanted
    assert (await mode(old), await mode(new)) == ("moved", "open")


@pytest.mark.parametrize("at", range(1, 16))
async def test_killed_and_rolled_back_it_never_was(stores, at):
    old, new = stores
    await scene(old)
    await new.fill(3, "here")
    await new.limit(active_max=7)
    wanted, there = await content(old), await content(new)
    with pytest.raises(Killed):
        await mover(old, new, Life(at), is_merge=True).run()
    for calls in range(1, 200):  # the rollback is killed, too
        try:
            await mover(old, new, Life(calls)).rollback()
            break
        except Killed:
            continue
    assert await content(old) == wanted
    assert await content(new) == there
    assert (await mode(old), await mode(new)) == ("open", "open")


async def test_after_its_end_a_move_is_not_rolled_back_and_running_it_again_does_nothing(stores):
    old, new = stores
    await old.fill(2)
    await mover(old, new).run()
    with pytest.raises(InvalidState, match="move them back"):
        await mover(old, new).rollback()
    await new.run()
    assert (await mover(old, new).run()).source == {}
    assert await new.count("pending") == 1


async def test_back_again(stores):
    """What moved to a store and lived there can move back into a new one; the old one stays closed."""
    old, new = stores
    await old.fill(4)
    await mover(old, new).run()
    await new.run()
    third = Store(type(old.backend)(test_clock=True), client="third")
    await third.backend.connect()
    await mover(new, third, names=("new", "third")).run()
    assert await third.dequeue_ids() == ["q-0001", "q-0002", "q-0003"]


# ── some queues only ──────────────────────────────────────────────────────────────────────────────────────────────────
async def test_one_queue_moves_and_the_others_stay_at_work(stores):
    old, new = stores
    await old.fill(3, "a")
    await old.fill(2, "b")
    await old.limit("a", active_max=20)
    await old.limit("b", active_max=9)
    await old.write(put("k"))
    await old.enqueue(job("keyed", "a", unique=Unique("u"), idempotency=Idempotency("i")))
    assert (await mover(old, new, selection=Selection.of((), ("a",))).run()).ok
    assert (await mode(old), await mode(new)) == ("open", "open")
    assert (await old.queue("a"), await new.queue("b")) == (None, None)
    assert (await new.queue("a")).limits.active_max == 20
    assert await old.read("k") is not None
    assert await new.read("k") is None
    assert await new.dequeue_ids("a") == ["a-0000", "a-0001", "a-0002", "keyed"]
    assert await old.dequeue_ids("b") == ["b-0000", "b-0001"]
    assert (await old.add("again", "b", unique=Unique("u", on_conflict="reject"))).created


async def test_one_queue_that_has_moved_is_moved_again_without_a_word(stores):
    """The last call was made, and whoever made it was killed before it could say so."""
    old, new = stores
    await old.fill(3, "a")
    await old.add("done", "a")
    await old.fill(1, "b")
    await old.amend(Change(kind="priority", priority=9), "done")
    await old.run("a")
    selection = Selection.of((), ("a",))
    await mover(old, new, selection=selection).run()
    assert await old.status("done") == "completed", "it stays: it was not asked for"
    assert (await mover(old, new, selection=selection).run()).source == {}
    assert (await mode(old), await mode(new)) == ("open", "open")
    await old.fill(5, "a")
    with pytest.raises(InvalidState, match="holds 3 jobs already"):
        await mover(old, new, selection=selection).run()


CALLS = 10
"""Changing calls of a move of one queue."""


async def test_so_many_calls_make_a_small_move(stores):
    old, new = stores
    await old.fill(7, "a")
    life = Life()
    await mover(old, new, life, Selection.of((), ("a",))).run()
    assert life.calls == CALLS


@pytest.mark.parametrize("at", range(1, CALLS + 1))
@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after"])
async def test_one_queue_moves_once_although_it_is_killed(stores, at, is_late):
    old, new = stores
    await old.fill(7, "a")
    await old.fill(2, "b")
    selection = Selection.of((), ("a",))
    try:
        await mover(old, new, Life(at, is_late=is_late), selection).run()
    except Killed:
        ids = await startable_in(old, new)
        assert len(ids) == len(set(ids))
        is_over = is_late and at == CALLS
        if not is_over:
            await mover(old, new, selection=selection).run()
    assert (await mode(old), await mode(new)) == ("open", "open")
    assert sorted(await new.walk(Filter())) == [f"a-{n:04}" for n in range(7)]
    assert sorted(await old.walk(Filter())) == ["b-0000", "b-0001"]


async def test_a_job_that_came_after_the_copy_is_not_dropped(stores):
    """The source was opened, the destination not yet, when it was killed; then a producer came."""
    old, new = stores
    await old.fill(3, "a")
    selection = Selection.of((), ("a",))
    with pytest.raises(Killed):
        await mover(old, new, Life(CALLS - 2, is_late=True), selection).run()
    assert (await mode(old), await mode(new)) == ("open", "frozen")
    await old.add("late", "a")
    await mover(old, new, selection=selection).run()
    assert await old.dequeue_ids("a") == ["late"]
    assert await new.dequeue_ids("a") == ["a-0000", "a-0001", "a-0002"]


async def test_queues_that_need_each_other_move_together_or_not_at_all(stores):
    old, new = stores
    await old.enqueue(job("p", "a"), job("c", "b", needs=(Dependency("p"),)))
    with pytest.raises(InvalidState, match="1 needs bind"):
        await mover(old, new, selection=Selection.of((), ("a",))).run()
    await mover(old, new, selection=Selection.of((), ("a", "b"))).run()
    assert await new.statuses("p", "c") == ["pending", "waiting"]


# ── the plan ──────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_plan_says_what_would_move_and_changes_nothing(stores):
    old, new = stores
    await furnish(old)
    await old.dequeue_one(session="t")
    before = [await content(store) for store in stores]
    plan = await mover(old, new).plan()
    assert [await content(store) for store in stores] == before
    counted = {
        (info.queue, status): n
        for info in (await old.backend.queues("", None, 50))[0]
        for status, n in info.counts.items()
    }
    moving = {(row.queue, row.status): row.source for row in plan.rows}
    assert moving["past", "dead"] == counted["past", "dead"]
    assert moving["q", "active"] == 1
    assert ("q", "cancelled") not in moving
    assert plan.jobs == sum(moving.values())
    assert plan.things["schedules"] == 1
    assert plan.obstacles == []
    assert any("1 job is running" in text for text in plan.warnings)
    assert any("worker is at work" in text for text in plan.warnings)


async def test_a_plan_warns_of_clocks_that_differ(stores):
    old, new = stores
    await old.fill(1)
    await new.advance(5_000)
    assert any("+5.0 s" in text for text in (await mover(old, new).plan()).warnings)


async def test_schedules_move_with_their_fires(stores):
    old, new = stores
    schedule = await old.backend.put_schedule(old.op(), Schedule(id="n", spec=b"{}"))
    await old.backend.fire(old.op(), schedule, 1_000, (job("one"),), 2_000)
    await mover(old, new).run()
    (moved,) = (await new.backend.list_schedules(None, 9))[0]
    assert not await new.backend.fire(new.op(), moved, 1_000, (job("two"),), 2_000)
    assert await new.walk(Filter()) == ["one"]


async def test_held_jobs_stay_held(stores):
    old, new = stores
    await old.enqueue(job("a"), job("b"))
    await old.amend(Change(kind="hold"), "a")
    await mover(old, new).run()
    assert await new.dequeue_ids() == ["b"]
    await new.amend(Change(kind="unhold"), "a")
    assert await new.dequeue_ids() == ["a"]
