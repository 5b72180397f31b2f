"""The move without a pause: one application before, during and after it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from moving.rig import EVERYTHING, Killed, Life, application, content, live, startable_in
from psyqueue.backend import Change, Dependency, Effects, Filter, Gate, Idempotency, MovedJob, Schedule, Unique
from psyqueue.errors import (
    IdConflict,
    InvalidState,
    KeyConflict,
    NamespaceFrozen,
    NamespaceMoved,
    SessionLost,
    StoreBusy,
    StoreUnavailable,
    UnknownDependency,
)
from psyqueue.moving import LiveMove, Selection
from psyqueue.testing.conformance import Store
from psyqueue.testing.conformance.handle import DAY_MS, ack, add, job, put
from psyqueue.testing.conformance.moving_house import furnish


async def mode(store: Store) -> str:
    return (await store.backend.info()).mode


# ── one application, before, during and after ─────────────────────────────────────────────────────────────────────────
async def test_one_application_goes_on_through_all_steps(ends):
    old, new = ends
    await new.advance(await old.now_ms() - await new.now_ms())
    app = await application(old, new)
    await app.enqueue(job("a"), job("b"), job("later", delay_ms=DAY_MS))
    assert await app.run() == "a"
    move = live(old, new, selection=EVERYTHING)
    assert (await move.status()).step == "none"

    await move.begin()
    assert ((await move.status()).step, await mode(old), await mode(new)) == ("draining", "draining", "filling")
    await app.enqueue(job("c"), job("d"))
    assert await old.statuses("c", "d") == [None, None]
    assert await app.statuses("a", "b", "c", "later") == ["completed", "pending", "pending", "scheduled"]
    assert await app.run() == "b"
    assert await app.dequeue() == (), "what came to the new store waits until the old one is closed"
    assert await move.move_early() == 3
    assert await old.walk(Filter()) == []

    verified = await move.finish()
    assert verified.ok
    assert ((await move.status()).step, await mode(old), await mode(new)) == ("over", "moved", "open")
    assert await app.dequeue_ids(count=5) == ["c", "d"]
    assert await app.statuses("a", "b", "later") == ["completed", "completed", "scheduled"]
    await new.advance(DAY_MS)
    assert await app.dequeue_ids(count=5) == ["later"]
    assert await new.broken() == []


async def test_everything_a_store_can_hold_arrives(ends):
    old, new = ends
    await furnish(old)
    await new.advance(await old.now_ms() - await new.now_ms())
    before = await content(old)
    move = live(old, new, selection=EVERYTHING)
    await move.begin()
    await move.finish()
    assert await content(new) == before
    assert await new.broken() == []


async def test_early_moves_change_nothing_either(stores):
    old, new = stores
    await furnish(old)
    before = await content(old)
    move = live(old, new, selection=EVERYTHING)
    await move.begin()
    assert await move.move_early() > 0
    await move.finish()
    assert await content(new) == before


async def test_an_early_move_that_changes_a_job_is_not_made(stores, monkeypatch):
    old, new = stores
    await old.add("a", delay_ms=DAY_MS)
    take_in = new.backend.import_part

    async def forge(op, items):
        forged = [replace(item, attempt=7) if isinstance(item, MovedJob) else item for item in items]
        return await take_in(op, forged)

    move = live(old, new, selection=EVERYTHING)
    await move.begin()
    with monkeypatch.context() as patched:
        patched.setattr(new.backend, "import_part", forge)
        with pytest.raises(InvalidState, match="job 'a' differs"):
            await move.move_early()
    assert (await old.view("a")).held
    await move.rollback()
    assert [await store.status("a") for store in stores] == ["scheduled", None]
    assert not (await old.view("a")).held


async def test_jobs_are_handed_out_in_the_old_order_and_before_newcomers(stores):
    old, new = stores
    app = await application(old, new)
    await app.enqueue(job("o1"), job("o2", priority=5), job("o3"))
    await live(old, new, selection=EVERYTHING).begin()
    await app.enqueue(job("n1"), job("n2", priority=5))
    await live(old, new, selection=EVERYTHING).finish()
    assert await app.dequeue_ids(count=9) == ["o2", "n2", "o1", "o3", "n1"]


async def test_a_running_job_ends_in_the_old_store_and_what_it_makes_moves(stores):
    old, new = stores
    app = await application(old, new)
    await app.enqueue(job("a"), job("b"))
    a, b = await app.dequeue(count=2)
    move = live(old, new, selection=EVERYTHING)
    await move.begin()
    await app.ack(a, effects=Effects((job("follow"),), (put("k"),)))
    with pytest.raises(InvalidState, match="1 job is still running"):
        await move.finish()
    assert ((await move.status()).step, await mode(old)) == ("draining", "draining")
    assert await app.read("k") is not None
    await app.ack(b)
    await move.finish()
    assert await app.run() == "follow"
    assert await app.read("k") is not None


async def test_running_jobs_can_be_taken_over(stores):
    old, new = stores
    app = await application(old, new)
    await app.enqueue(job("a"))
    delivery = await app.dequeue_one()
    move = live(old, new, selection=EVERYTHING, is_take_over=True)
    await move.begin()
    await move.finish()
    with pytest.raises(SessionLost):
        await app.ack(delivery)
    later = await application(old, new, "later")
    assert await later.run() == "a"


# ── what only both stores together know ───────────────────────────────────────────────────────────────────────────────
async def test_ids_and_keys_of_the_old_store_count_in_the_new_one(stores):
    old, new = stores
    app = await application(old, new)
    await app.enqueue(job("a"), job("u", unique=Unique("u")), job("i", idempotency=Idempotency("i"), digest=b"i"))
    await live(old, new, selection=EVERYTHING).begin()
    assert [(each.job_id, each.created) for each in await app.enqueue(
        job("a"), job("n"), job("x", unique=Unique("u")), job("y", idempotency=Idempotency("i"), digest=b"i")
    )] == [("a", False), ("n", True), ("u", False), ("i", False)]  # fmt: skip
    with pytest.raises(IdConflict):
        await app.add("a", digest=b"other")
    with pytest.raises(KeyConflict):
        await app.add("z", unique=Unique("u", on_conflict="reject"))
    with pytest.raises(KeyConflict):
        await app.add("z", idempotency=Idempotency("i"), digest=b"other")
    await live(old, new, selection=EVERYTHING).move_early()
    await live(old, new, selection=EVERYTHING).finish()
    assert not (await app.add("x2", unique=Unique("u"))).created
    assert not (await app.add("y2", idempotency=Idempotency("i"), digest=b"i")).created
    assert sorted(await app.dequeue_ids(count=9)) == ["a", "i", "n", "u"]


async def test_a_job_takes_the_place_of_one_in_the_old_store(stores):
    old, new = stores
    app = await application(old, new)
    await app.enqueue(job("runs", unique=Unique("runs")), job("waits", unique=Unique("waits")))
    assert await app.dequeue_ids(count=1) == ["runs"]
    await live(old, new, selection=EVERYTHING).begin()
    replies = await app.enqueue(
        *(job(f"n-{key}", unique=Unique(key, on_conflict="replace")) for key in ("runs", "waits"))
    )
    assert [(each.job_id, each.created) for each in replies] == [("runs", False), ("n-waits", True)]
    assert await app.statuses("runs", "waits", "n-runs", "n-waits") == ["active", "cancelled", None, "pending"]


async def test_a_job_that_was_started_in_the_same_moment_keeps_its_place(stores):
    old, new = stores
    app = await application(old, new)
    await app.add("a", unique=Unique("u"))
    await live(old, new, selection=EVERYTHING).begin()
    enqueue = new.backend.enqueue

    async def while_it_is_started(*arguments: Any) -> Any:
        reply = await enqueue(*arguments)
        assert await old.dequeue_ids() == ["a"]
        return reply

    new.backend.enqueue = while_it_is_started
    reply = await app.add("n", unique=Unique("u", on_conflict="replace"))
    assert (reply.job_id, reply.created, reply.status) == ("a", False, "active")
    assert await app.statuses("a", "n") == ["active", "cancelled"]


async def test_a_job_that_needs_one_in_the_old_store_goes_there(stores):
    old, new = stores
    app = await application(old, new)
    await app.enqueue(job("p"), job("g", gate=Gate("g")))
    await live(old, new, selection=EVERYTHING).begin()
    await app.enqueue(job("n"))
    assert (await app.add("child", needs=(Dependency("p"),))).status == "waiting"
    assert (await app.add("grandchild", needs=(Dependency("child"),))).status == "waiting"
    assert (await app.add("other", needs=(Dependency("n"),))).status == "waiting"
    assert await old.statuses("child", "grandchild", "other") == ["waiting", "waiting", None]
    with pytest.raises(UnknownDependency):
        await app.add("x", needs=(Dependency("nobody"),))
    with pytest.raises(InvalidState, match="of both stores"):
        await app.enqueue(job("x", needs=(Dependency("p"),)), job("y", needs=(Dependency("n"),)))
    await live(old, new, selection=EVERYTHING).move_early()
    await live(old, new, selection=EVERYTHING).finish()
    seen = [await app.run() for _ in range(6)]
    assert sorted(seen) == ["child", "g", "grandchild", "n", "other", "p"]
    assert seen.index("p") < seen.index("child") < seen.index("grandchild")


async def test_a_gate_is_kept_over_the_move(stores):
    old, new = stores
    app = await application(old, new)
    await app.enqueue(job("g1", gate=Gate("g")), job("g2", gate=Gate("g")))
    first = await app.dequeue_one()
    move = live(old, new, selection=EVERYTHING)
    await move.begin()
    await app.enqueue(job("g3", gate=Gate("g")), job("h1", gate=Gate("h")))
    assert await old.statuses("g3", "h1") == ["waiting", "pending"], "the call goes where one of its jobs belongs"
    await app.add("i1", gate=Gate("i"))
    assert await old.status("i1") is None
    await app.ack(first, effects=Effects((job("i2", gate=Gate("i")),)))
    await move.finish()
    assert await app.statuses("g2", "g3", "h1", "i1", "i2") == ["pending", "waiting", "pending", "pending", "waiting"]
    ran = []
    while deliveries := await app.dequeue(count=5):
        ran += [sorted(each.id for each in deliveries)]
        for each in deliveries:
            await app.ack(each)
    assert ran == [["g2", "h1", "i1"], ["g3", "i2"]]


async def test_who_comes_to_a_gate_while_the_rest_is_copied_waits_behind_it(stores):
    old, new = stores
    app = await application(old, new)
    await app.enqueue(job("g1", gate=Gate("g")), job("g2", gate=Gate("g")))
    await live(old, new, selection=EVERYTHING).begin()
    with pytest.raises(Killed):
        await live(old, new, Life(2, is_late=True), EVERYTHING).finish()
    assert (await mode(old), await mode(new)) == ("frozen", "filling")
    assert (await app.add("free")).created
    with pytest.raises(StoreBusy):
        await app.add("g3", gate=Gate("g"))
    finishing = asyncio.create_task(live(old, new, selection=EVERYTHING).finish())
    assert (await app.add("g3", gate=Gate("g"))).status == "waiting"
    await finishing
    assert await app.statuses("g1", "g2", "g3") == ["pending", "waiting", "waiting"]


# ── operating meanwhile ───────────────────────────────────────────────────────────────────────────────────────────────
async def test_jobs_of_both_stores_are_seen_and_operated(stores):
    old, new = stores
    app = await application(old, new)
    await app.enqueue(job("a"), job("c"))
    await live(old, new, selection=EVERYTHING).begin()
    await app.enqueue(job("b"), job("d"))
    assert sorted(await app.walk(Filter())) == ["a", "b", "c", "d"]
    assert await app.count("pending") == 4
    amended = await app.cancel("a", "b", "nobody")
    assert (sorted(amended.changed), amended.skipped) == (["a", "b"], (("nobody", None),))
    await app.amend(Change(kind="priority", priority=1), "c", "d", effects=Effects(writes=(add("changed"),)))
    changed = await app.read("changed")
    assert changed is not None
    assert changed.value == b"1"
    await app.limit(active_max=1)
    assert [(await store.queue()).limits.active_max for store in (old, new)] == [1, 1]
    await live(old, new, selection=EVERYTHING).finish()
    assert await app.dequeue_ids(count=5) == ["c"]
    assert await app.statuses("a", "b", "d") == ["cancelled", "cancelled", "pending"]


async def test_a_process_that_only_looks_sees_the_switch(stores):
    old, new = stores
    producer = await application(old, new)
    looks, operates, reads = [await application(old, new, name) for name in ("looks", "operates", "reads")]
    await live(old, new, selection=EVERYTHING).begin()
    await producer.add("a")
    assert await looks.status("a") == "pending"
    await operates.limit(active_max=3)
    assert (await new.queue()).limits.active_max == 3
    await live(old, new, selection=EVERYTHING).finish()
    await producer.write(put("k"))
    assert await reads.read("k") is not None


async def test_schedules_go_on_in_the_new_store(stores):
    old, new = stores
    app = await application(old, new)
    schedule = await app.backend.put_schedule(app.op(), Schedule(id="nightly", spec=b"{}", next_at_ms=5))
    await live(old, new, selection=EVERYTHING).begin()
    assert await app.backend.fire(app.op(), schedule, 5, (job("fired"),), 9)
    assert not await app.backend.fire(app.op(), schedule, 5, (job("again"),), 9)
    await live(old, new, selection=EVERYTHING).finish()
    assert await app.walk(Filter()) == ["fired"]
    assert [each.next_at_ms for each in (await app.backend.list_schedules(None, 9))[0]] == [9]


# ── forgotten participants ────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_forgotten_producer_is_told_and_a_forgotten_worker_drains(stores):
    old, new = stores
    await old.enqueue(job("a"), job("b"))
    move = live(old, new, selection=EVERYTHING)
    await move.begin()
    with pytest.raises(NamespaceMoved, match="new"):
        await old.add("late")
    assert await old.run() == "a"
    held = await old.dequeue_one()
    with pytest.raises(InvalidState, match="workers: "):
        await move.finish()
    await old.settle(ack(held))
    await move.finish()
    with pytest.raises(NamespaceMoved, match="new"):
        await old.dequeue()


async def test_status_names_the_jobs_that_hold_up_the_end(stores):
    old, new = stores
    await old.enqueue(job("long"), job("short"))
    move = live(old, new, selection=EVERYTHING)
    await move.begin()
    await old.dequeue()
    await old.advance(5_000)
    await old.dequeue()
    await old.advance(10)
    assert (await move.status()).running == (("long", 5_010), ("short", 10))
    with pytest.raises(InvalidState, match="2 jobs are still running"):
        await move.finish()


async def test_a_worker_of_the_new_store_alone_gets_nothing_before_the_end(stores):
    old, new = stores
    app = await application(old, new)
    move = live(old, new, selection=EVERYTHING)
    await move.begin()
    await app.add("a")
    with pytest.raises(NamespaceFrozen):
        await new.dequeue()
    await move.finish()
    assert await new.run() == "a"


async def test_a_store_that_is_frozen_by_something_else_is_no_switch(stores):
    old, new = stores
    app = await application(old, new)
    await old.backend.set_mode(old.op(), "frozen", 1)
    with pytest.raises(NamespaceFrozen):
        await app.add("a")
    assert await new.walk(Filter()) == []


async def test_producers_wait_for_the_switch_and_are_told_when_it_takes_long(stores):
    old, new = stores
    app = await application(old, new)
    await live(old, new, selection=EVERYTHING).begin()
    await new.backend.set_mode(new.op(), "frozen", (await new.backend.info()).epoch + 1)
    with pytest.raises(StoreBusy, match="try again"):
        await app.add("a")
    assert await new.walk(Filter()) == []


@pytest.mark.parametrize("is_done", [True, False], ids=["done", "lost"])
async def test_an_enqueue_without_an_answer_is_repeated_where_it_may_have_been_done(stores, is_done):
    old, new = stores
    app = await application(old, new)
    enqueue, op = old.backend.enqueue, app.op(channel=1)

    async def without_an_answer(*arguments: Any) -> Any:
        if is_done:
            await enqueue(*arguments)
        raise StoreUnavailable("gone", "unknown")

    old.backend.enqueue = without_an_answer
    with pytest.raises(StoreUnavailable):
        await app.backend.enqueue(op, (job("a"),))
    old.backend.enqueue = enqueue
    await live(old, new, selection=EVERYTHING).begin()
    assert (await app.add("b")).created, "somebody else of the process has learned of the switch by now"
    assert (await app.backend.enqueue(op, (job("a"),)))[0].created
    assert [await store.status("a") for store in (old, new)] == (["pending", None] if is_done else [None, "pending"])
    await live(old, new, selection=EVERYTHING).finish()
    assert sorted(await app.dequeue_ids(count=9)) == ["a", "b"]


async def test_before_a_move_the_new_store_may_be_missing(stores, monkeypatch):
    old, new = stores

    async def refused() -> Any:
        raise StoreUnavailable("nobody there", "refused")

    monkeypatch.setattr(new.backend, "connect", refused)
    app = await application(old, new)
    await app.add("a")
    assert await app.run() == "a"
    monkeypatch.undo()
    await live(old, new, selection=EVERYTHING).begin()
    await app.add("b")
    assert await new.status("b") == "pending"


async def test_after_a_move_the_old_store_may_be_gone(stores, monkeypatch):
    old, new = stores
    app = await application(old, new)
    await app.add("a")

    async def refused(*_: Any) -> Any:
        raise StoreUnavailable("nobody there", "refused")

    with monkeypatch.context() as patched:
        patched.setattr(old.backend, "connect", refused)
        with pytest.raises(StoreUnavailable):
            await application(old, new)
    await live(old, new, selection=EVERYTHING).begin()
    await live(old, new, selection=EVERYTHING).finish()
    assert await app.status("a") == "pending", "it has seen the end"
    assert await app.walk(Filter()) == ["a"]
    for verb in ("connect", "info", "get", "settle"):
        monkeypatch.setattr(old.backend, verb, refused)
    assert await app.walk(Filter()) == ["a"], "a process that ran all the time"
    app = await application(old, new, "later")
    assert await app.run() == "a"
    assert (await app.add("b")).created


# ── back ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_move_is_rolled_back_with_all_that_came_since(ends):
    old, new = ends
    await new.advance(await old.now_ms() - await new.now_ms())
    await furnish(old)
    app = await application(old, new)
    move = live(old, new, selection=EVERYTHING)
    await move.begin()
    before = await content(old)
    await app.enqueue(job("n1"), job("n2", needs=(Dependency("n1"),)))
    await app.add("n3", idempotency=Idempotency("fresh"), digest=b"n3")
    await move.move_early()
    await move.rollback()
    assert (await mode(old), await mode(new), (await move.status()).step) == ("open", "moved", "none")
    after = await content(old)
    came = {"n1", "n2", "n3"}
    assert {each["job"].id for each in after["jobs"]} - {each["job"].id for each in before["jobs"]} == came
    assert [each for each in after["jobs"] if each["job"].id not in came] == before["jobs"]
    assert all(not items for items in (await content(new)).values())
    await app.add("n4")
    assert await old.status("n4") == "pending"
    assert not (await app.add("n5", idempotency=Idempotency("fresh"), digest=b"n3")).created
    assert await old.broken() == []
    await move.rollback()


async def test_more_schedules_than_a_call_takes_come_back(stores):
    old, new = stores
    app = await application(old, new)
    await live(old, new, selection=EVERYTHING).begin()
    for number in range(501):
        await app.backend.put_schedule(app.op(), Schedule(id=f"s-{number}", spec=b"{}"))
    await live(old, new, selection=EVERYTHING).rollback()
    found, after = await old.backend.list_schedules(None, 500)
    assert (len(found), after is None) == (500, False)
    assert (await old.backend.list_schedules(after, 500))[0] != ()


async def test_a_move_can_be_begun_again_after_it_was_rolled_back(stores):
    old, new = stores
    app = await application(old, new)
    await app.enqueue(job("a"), job("s", delay_ms=DAY_MS))
    move = live(old, new, selection=EVERYTHING)
    await move.begin()
    await app.add("b")
    await move.move_early()
    await move.rollback()
    move = live(old, new, selection=EVERYTHING)
    await move.begin()
    await app.add("c")
    await move.move_early()
    await move.finish()
    assert await app.dequeue_ids(count=9) == ["a", "b", "c"]
    assert await app.status("s") == "scheduled"
    with pytest.raises(InvalidState, match="live at new"):
        await move.rollback()


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────────
async def test_what_is_not_begun_cannot_be_ended(stores):
    move = live(stores[0], stores[1], selection=EVERYTHING)
    for step in (move.finish, move.rollback, move.move_early):
        with pytest.raises(InvalidState, match="migrate run"):
            await step()


async def test_only_an_empty_store_is_moved_into(stores):
    old, new = stores
    await new.add("there")
    with pytest.raises(InvalidState, match="holds 1 job already"):
        await live(old, new, selection=EVERYTHING).begin()
    assert (await mode(old), await mode(new)) == ("open", "open")


def test_single_queues_move_offline(stores):
    with pytest.raises(InvalidState, match="offline"):
        live(stores[0], stores[1], selection=Selection.of((), ("mail",)))


async def test_jobs_held_by_an_operator_stay_held(stores):
    old, new = stores
    await old.enqueue(job("h", delay_ms=DAY_MS), job("s", delay_ms=DAY_MS))
    await old.amend(Change(kind="hold"), "h")
    move = live(old, new, selection=EVERYTHING)
    await move.begin()
    assert await move.move_early() == 1
    await move.finish()
    assert [(await new.view(each)).held for each in ("h", "s")] == [True, False]


# ── killed, and done again ────────────────────────────────────────────────────────────────────────────────────────────
async def begin(move: LiveMove) -> None:
    await move.begin()
    await move.move_early()


async def finish(move: LiveMove) -> None:
    await move.finish()


async def roll_back(move: LiveMove) -> None:
    await move.rollback()


async def scene(old: Store) -> None:
    """Small, with all that a move has to keep."""
    await furnish(old)
    await old.fill(12, "many", delay_ms=DAY_MS)


async def killed_again_and_again(stores: tuple[Store, Store], step: Any, *, is_late: bool) -> int:
    """Do a step in lives that are each one call longer than the one before; how many it took."""
    for calls in range(1, 200):
        try:
            await step(live(stores[0], stores[1], Life(calls, is_late=is_late), EVERYTHING))
        except Killed:
            ids = await startable_in(*stores)
            assert len(ids) == len(set(ids)), f"startable in two stores after call {calls}"
        else:
            return calls
    raise AssertionError("it never ends")


@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after"])
async def test_killed_at_any_call_of_any_step_it_ends_as_if_never_killed(stores, is_late):
    old, new = stores
    await scene(old)
    await new.advance(await old.now_ms() - await new.now_ms())
    wanted = await content(old)
    app = await application(old, new)
    assert await killed_again_and_again(stores, begin, is_late=is_late) > 5
    await app.add("newcomer", queue="newcomers")
    assert await killed_again_and_again(stores, finish, is_late=is_late) > 5
    found = await content(new)
    assert [each for each in found["jobs"] if each["job"].id != "newcomer"] == wanted["jobs"]
    assert {part: found[part] for part in found if part != "jobs"} == {
        part: wanted[part] for part in found if part != "jobs"
    }
    assert (await mode(old), await mode(new)) == ("moved", "open")


@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("cut_at", [None, 4, 9, 14], ids=["draining", "early", "earlier", "earliest"])
async def test_killed_at_any_call_of_a_rollback_it_ends_as_if_never_begun(stores, is_late, cut_at):
    old, new = stores
    await scene(old)
    await new.advance(await old.now_ms() - await new.now_ms())
    wanted = await content(old)
    if cut_at is None:
        await begin(live(old, new, selection=EVERYTHING))
        await (await application(old, new)).add("newcomer", queue="newcomers")
    else:
        with pytest.raises(Killed):
            await begin(live(old, new, Life(cut_at, is_late=True), EVERYTHING))
    assert await killed_again_and_again(stores, roll_back, is_late=is_late) > 2
    found = await content(old)
    assert [each for each in found["jobs"] if each["job"].id != "newcomer"] == wanted["jobs"]
    assert {part: found[part] for part in found if part != "jobs"} == {
        part: wanted[part] for part in found if part != "jobs"
    }
    assert await old.status("newcomer") == (None if cut_at else "pending")
    assert all(not items for items in (await content(new)).values())
    assert await mode(old) == "open"


@pytest.mark.parametrize("at", range(1, 60))
async def test_an_application_goes_on_while_the_mover_dies(stores, at):
    """At each call of each step the mover dies once; producers and workers work before, in between and after."""
    old, new = stores
    app = await application(old, new)
    made: list[str] = []
    ran: list[str] = []

    async def work(name: str) -> None:
        try:
            reply = await app.enqueue(
                job(name), job(f"{name}-later", delay_ms=DAY_MS), job(f"{name}-g", gate=Gate("g"))
            )
        except StoreBusy:
            pass  # told that nothing was written, and to try again
        else:
            made.extend(each.job_id for each in reply)
        for delivery in await app.dequeue(count=2):
            ran.append(delivery.id)
            assert (await app.ack(delivery)).verdict == "ok"

    await work("first")
    life = Life(at, is_late=at % 2 == 0)
    for number, step in enumerate((begin, finish)):
        try:
            await step(live(old, new, life, EVERYTHING))
        except Killed:
            await work(f"cut-{number}")
            await step(live(old, new, selection=EVERYTHING))
        await work(f"after-{number}")
    while deliveries := await app.dequeue(count=9):
        for delivery in deliveries:
            ran.append(delivery.id)
            await app.ack(delivery)
    await new.advance(DAY_MS)
    while deliveries := await app.dequeue(count=9):
        for delivery in deliveries:
            ran.append(delivery.id)
            await app.ack(delivery)
    assert sorted(ran) == sorted(made), "each once"
