"""The fence of the namespace: who may do what while it is drained, frozen or moved; and the facts of the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from psyqueue.backend import Change, Dependency, Effects, Filter, Gate, Limits, Mode, Record, Schedule
from psyqueue.errors import NamespaceFrozen, NamespaceMoved, StateConflict, UnknownDependency
from psyqueue.testing.conformance.handle import Store, ack, add, job, put


async def switch(store: Store, mode: Mode, moved_to: str = "") -> None:
    epoch = (await store.backend.info()).epoch
    info = await store.backend.set_mode(store.op(), mode, epoch + 1, moved_to)
    assert (info.mode, info.epoch, info.moved_to) == (mode, epoch + 1, moved_to)


async def test_the_facts_of_a_store(store: Store) -> None:
    info = await store.backend.info()
    assert info.store
    assert info.schema >= 1
    assert (info.mode, info.moved_to) == ("open", "")
    kinds = {"safe", "bounded_loss", "lost", "unknown"}
    assert {info.process_crash, info.server_crash, info.power_loss, info.failover} <= kinds
    assert store.backend.capabilities.batch_max == 500


async def test_connecting_twice_is_connecting_once(store: Store) -> None:
    await store.add("a")
    assert (await store.backend.connect()) == (await store.backend.info())
    assert await store.run() == "a"


async def test_disconnecting_twice_is_disconnecting_once(store: Store) -> None:
    await store.backend.disconnect()
    await store.backend.disconnect()
    await store.backend.connect()


async def test_the_mode_is_compare_and_set_on_the_epoch(store: Store) -> None:
    epoch = (await store.backend.info()).epoch
    for wrong in (epoch, epoch + 2, epoch - 1):
        with pytest.raises(StateConflict):
            await store.backend.set_mode(store.op(), "frozen", wrong)
    assert (await store.backend.info()).mode == "open"
    await switch(store, "frozen")
    await switch(store, "open")
    assert (await store.add("a")).created


async def test_draining_takes_no_new_jobs_and_finishes_the_old_ones(store: Store) -> None:
    await store.enqueue(job("a"), job("s", delay_ms=10))
    await switch(store, "draining")
    with pytest.raises(NamespaceFrozen):
        await store.add("b")
    assert await store.run() == "a"
    await store.advance(10)
    assert await store.run() == "s"
    await switch(store, "open")
    assert (await store.add("b")).created


async def test_draining_takes_what_belongs_to_jobs_there(store: Store) -> None:
    await store.enqueue(job("p"), job("g1", gate=Gate("g")))
    await switch(store, "draining", "redis://new")
    assert (await store.add("a", needs=(Dependency("p"),))).status == "waiting"
    assert (await store.add("g2", gate=Gate("g"))).status == "waiting"
    await store.enqueue(job("b", needs=(Dependency("a"),)), job("free"))
    with pytest.raises(UnknownDependency):
        await store.add("x", needs=(Dependency("elsewhere"),))
    for other in (job("x"), job("x", gate=Gate("unused"))):
        with pytest.raises(NamespaceMoved):
            await store.enqueue(other)
    assert await store.status("x") is None
    assert sorted([await store.run() for _ in range(6)]) == ["a", "b", "free", "g1", "g2", "p"]
    with pytest.raises(NamespaceMoved):
        await store.add("g3", gate=Gate("g"))
    await switch(store, "frozen", "redis://new")
    with pytest.raises(NamespaceMoved):
        await store.add("late", needs=(Dependency("b"),))


async def test_draining_takes_what_stands_in_line_behind_held_jobs(store: Store) -> None:
    await store.enqueue(job("g1", gate=Gate("g")), job("g2", gate=Gate("g")), job("p"))
    await store.add("n", needs=(Dependency("p"),), gate=Gate("unused"))
    await store.amend(Change(kind="hold"), "g2", "n", "p")
    assert await store.run() == "g1"
    await switch(store, "draining")
    with pytest.raises(NamespaceFrozen):
        await store.add("x", gate=Gate("unused"))
    assert (await store.add("g3", gate=Gate("g"))).status == "pending"


async def test_draining_takes_follow_ups_that_belong_to_jobs_there(store: Store) -> None:
    await store.add("p")
    await switch(store, "draining")
    bound, free = job("bound", needs=(Dependency("p"),)), job("free")
    with pytest.raises(NamespaceFrozen):
        await store.enqueue(free, effects=Effects(jobs=(job("other"),)))
    await store.enqueue(free, effects=Effects(jobs=(bound,)))
    assert await store.statuses("bound", "free", "other") == ["waiting", "pending", None]


async def test_draining_looks_at_the_jobs_of_every_verb(store: Store) -> None:
    await store.enqueue(job("p"), job("bound", needs=(Dependency("p"),)))
    await switch(store, "draining")
    free = job("free")
    with pytest.raises(NamespaceFrozen):
        await store.backend.write_state(store.op(), Effects((free,), (put("k"),)))
    with pytest.raises(NamespaceFrozen):
        await store.enqueue(effects=Effects(writes=(put("k"),)))
    assert await store.read("k") is None
    late = job("late", needs=(Dependency("bound"),))
    assert len(await store.backend.write_state(store.op(), Effects((late,), (put("k"),)))) == 1
    await store.enqueue(effects=Effects((job("last", needs=(Dependency("late"),)),)))
    assert await store.statuses("free", "bound", "late", "last") == [None, "waiting", "waiting", "waiting"]


async def test_filling_takes_jobs_and_starts_none(store: Store) -> None:
    await store.enqueue(job("a"), job("s", delay_ms=10))
    delivery = await store.dequeue_one()
    await switch(store, "filling")
    assert (await store.add("b")).status == "pending"
    with pytest.raises(NamespaceFrozen):
        await store.dequeue()
    reply = await store.settle(ack(delivery), fetch=store.fetch())
    assert (reply.settled[0].verdict, reply.deliveries) == ("ok", ())
    assert await store.statuses("a", "b", "s") == ["completed", "pending", "scheduled"]
    assert "mode:filling" in (await store.view("b")).blocked_by
    assert (await store.cancel("s")).changed == ("s",)
    await store.write(put("k"))
    schedule = await store.backend.put_schedule(store.op(), Schedule(id="n", spec=b"{}"))
    assert await store.backend.fire(store.op(), schedule, 1, (job("f"),), 2)
    assert (await store.backend.lock(store.op(), "l", "me", 1_000)).fence == 1
    await store.limit(active_max=1)
    await switch(store, "open")
    assert await store.run() == "b"


async def test_nothing_becomes_due_expires_or_is_pruned_while_it_is_filled(store: Store) -> None:
    """What is copied in has to be comparable with where it comes from, which stands still."""
    await store.limit(retain_ended=(10, 9))
    await store.add("done")
    await store.run()
    await store.enqueue(job("s", delay_ms=10), job("o", expires_in_ms=10))
    await switch(store, "filling")
    await store.advance(20)
    done = await store.backend.promote(("q",), 9)
    assert (done.ids, done.more, done.next_in_ms) == ((), False, None)
    assert (await store.backend.prune(9)).ids == ()
    assert await store.statuses("s", "o", "done") == ["scheduled", "pending", "completed"]
    await switch(store, "open")
    await store.backend.promote(("q",), 9)
    await store.backend.prune(9)
    assert await store.statuses("s", "o", "done") == ["pending", "dead", None]


@pytest.mark.parametrize("mode", ["frozen", "moved"])
async def test_frozen_gives_out_no_jobs(store: Store, mode: Mode) -> None:
    await store.fill(2)
    await store.dequeue()
    await switch(store, mode, "postgres://new" if mode == "moved" else "")
    with pytest.raises(NamespaceFrozen):
        await store.add("b")
    with pytest.raises(NamespaceFrozen):
        await store.dequeue()
    assert await store.statuses("q-0000", "q-0001", "b") == ["active", "pending", None]


async def test_moved_says_where_to(store: Store) -> None:
    await store.open_session()
    await switch(store, "moved", "postgres://new")
    with pytest.raises(NamespaceMoved) as caught:
        await store.add("a")
    assert caught.value.moved_to == "postgres://new"
    with pytest.raises(NamespaceMoved):
        await store.dequeue()


@pytest.mark.parametrize("mode", ["draining", "filling", "frozen", "moved"])
async def test_outcomes_are_taken_in_every_mode_with_their_effects(store: Store, mode: Mode) -> None:
    await store.fill(3)
    a, b = await store.dequeue(count=2)
    await switch(store, mode)
    effects = Effects((job("follow"),), (add("n"),), (Record("r", b"1"),))
    reply = await store.settle(ack(a, effects=effects), ack(b), fetch=store.fetch())
    assert [each.verdict for each in reply.settled] == ["ok", "ok"]
    assert [each.id for each in reply.deliveries] == (["q-0002"] if mode == "draining" else [])
    assert await store.status("follow") == "pending"
    assert await store.read("n") is not None
    assert len(await store.backend.read_records("r", 0, 9)) == 1


@pytest.mark.parametrize("mode", ["frozen", "moved"])
@pytest.mark.parametrize(
    "act",
    [
        lambda store: store.cancel("q-0000"),
        lambda store: store.amend(Change(kind="priority", priority=5), "q-0000"),
        lambda store: store.backend.amend(store.op(), Filter(), Change(kind="hold"), None, 9),
        lambda store: store.backend.put_limits(store.op(), (Limits(queue="q"),)),
        lambda store: store.backend.put_schedule(store.op(), Schedule(id="n", spec=b"{}")),
    ],
    ids=["cancel", "priority", "hold", "put_limits", "put_schedule"],
)
async def test_nothing_is_operated_while_it_is_frozen(
    store: Store, mode: Mode, act: Callable[[Store], Awaitable[Any]]
) -> None:
    await store.fill(1)
    await switch(store, mode)
    before = await store.view("q-0000")
    with pytest.raises(NamespaceFrozen):
        await act(store)
    assert await store.view("q-0000") == before


async def test_draining_takes_no_schedule_and_fires_none(store: Store) -> None:
    """They make new jobs: also where those belong to a line there, or the schedule would fire in two stores."""
    await store.add("a", gate=Gate("g"))
    schedule = await store.backend.put_schedule(store.op(), Schedule(id="n", spec=b"{}", next_at_ms=5))
    await switch(store, "draining")
    acts: list[Callable[[], Awaitable[Any]]] = [
        lambda: store.backend.put_schedule(store.op(), Schedule(id="other", spec=b"{}")),
        lambda: store.backend.put_schedule(store.op(), replace(schedule, paused=True)),
        lambda: store.backend.put_schedule(store.op(), schedule, delete=True),
        lambda: store.backend.fire(store.op(), schedule, 5, (job("fired", gate=Gate("g")),), 9),
    ]
    for act in acts:
        with pytest.raises(NamespaceFrozen):
            await act()
    assert (await store.backend.list_schedules(None, 9))[0] == (schedule,)
    assert await store.status("fired") is None


@pytest.mark.parametrize("mode", ["draining", "filling", "frozen", "moved"])
async def test_everything_can_be_read_in_every_mode(store: Store, mode: Mode) -> None:
    await store.fill(2)
    await store.write(put("k"))
    await store.open_session()
    await switch(store, mode)
    assert await store.status("q-0000") == "pending"
    assert len(await store.walk(Filter())) == 2
    assert await store.count("pending") == 2
    assert len((await store.backend.sessions(None, 9))[0]) == 1
    assert await store.read("k") is not None
    assert await store.broken() == []


async def test_leases_go_on_while_it_is_frozen(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    await switch(store, "frozen")
    assert (await store.renew()).open
    assert (await store.ack(delivery)).verdict == "ok"
