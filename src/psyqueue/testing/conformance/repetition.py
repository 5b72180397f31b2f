"""Repetition: the same op again does nothing and brings the same reply, so a lost reply is repaired by asking again."""

from __future__ import annotations

import pytest

from psyqueue.backend import Change, Effects, Filter, Limits, Op, Record, Schedule, Session
from psyqueue.errors import IdConflict, InvalidState, SessionLost, StaleOp, StateConflict
from psyqueue.testing.conformance.handle import Store, ack, add, job, put, release, retry


def op(turn: int, channel: int = 7, client: str = "repeater") -> Op:
    return Op(client, channel, turn)


SESSION = Session(id="s", worker="w", queues=("q",), lease_ms=30_000)


async def test_a_repeated_enqueue_puts_nothing_in_twice(store: Store) -> None:
    effects = Effects(jobs=(job("b"),), writes=(add("n"),), records=(Record("r", b"1"),))
    first = await store.backend.enqueue(op(1), (job("a"),), effects)
    assert [reply.created for reply in first] == [True, True]
    assert await store.backend.enqueue(op(1), (job("a"),), effects) == first
    assert await store.write(add("n", 0)) == (1,)
    assert len(await store.backend.read_records("r", 0, 9)) == 1


async def test_a_repeated_call_gets_the_first_reply_though_the_world_moved_on(store: Store) -> None:
    first = await store.backend.enqueue(op(1), (job("a"),))
    await store.run()
    assert await store.backend.enqueue(op(1), (job("a"),)) == first


async def test_a_repeated_settle_brings_its_verdicts_and_the_deliveries_still_held(store: Store) -> None:
    await store.fill(4)
    await store.open_session()
    a, b = await store.dequeue(count=2)
    outcomes, fetch = (ack(a), retry(b, 1_000), ack(a)), store.fetch(count=2)
    first = await store.backend.settle(op(1), "s", outcomes, fetch)
    assert [each.verdict for each in first.settled] == ["ok", "ok", "already"]
    again = await store.backend.settle(op(1), "s", outcomes, fetch)
    assert (again.settled, again.deliveries) == (first.settled, first.deliveries)
    assert len((await store.view(b.id)).errors) == 1
    c, d = first.deliveries
    await store.ack(c)
    again = await store.backend.settle(op(1), "s", outcomes, fetch)
    assert (again.settled, again.deliveries) == (first.settled, (d,))


async def test_a_repeated_fetch_never_brings_a_job_that_went_to_somebody_else(store: Store) -> None:
    await store.add("a")
    await store.open_session()
    fetch = store.fetch()
    first = await store.backend.settle(op(1), "s", (), fetch)
    await store.settle(release(first.deliveries[0]))
    assert await store.dequeue_ids(session="t") == ["a"]
    assert (await store.backend.settle(op(1), "s", (), fetch)).deliveries == ()


async def test_a_repeated_fetch_never_brings_a_later_delivery_of_the_same_job(store: Store) -> None:
    await store.add("a")
    await store.open_session()
    fetch = store.fetch()
    (first,) = (await store.backend.settle(op(1), "s", (), fetch)).deliveries
    await store.settle(release(first))
    await store.dequeue_one()
    assert (await store.backend.settle(op(1), "s", (), fetch)).deliveries == ()


async def test_a_repeated_fetch_takes_no_more_jobs(store: Store) -> None:
    await store.fill(6)
    await store.open_session()
    fetch = store.fetch(count=2)
    for _ in range(3):
        await store.backend.settle(op(1), "s", (), fetch)
    assert await store.count("active") == 2


async def test_effects_of_a_repeated_settle_count_once(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    outcome = ack(delivery, effects=Effects((job("b"),), (add("n"),), (Record("r", b"1"),)))
    first = await store.backend.settle(op(1), "s", (outcome,))
    assert (await store.backend.settle(op(1), "s", (outcome,))).settled == first.settled
    assert await store.write(add("n", 0)) == (1,)
    assert len(await store.backend.read_records("r", 0, 9)) == 1


async def test_a_repeated_call_is_answered_though_its_session_was_closed(store: Store) -> None:
    await store.fill(2)
    (a,) = await store.dequeue()
    fetch = store.fetch()
    first = await store.backend.settle(op(1), "s", (ack(a),), fetch)
    await store.close_session()
    again = await store.backend.settle(op(1), "s", (ack(a),), fetch)
    assert (again.settled, again.deliveries) == (first.settled, ())
    with pytest.raises(SessionLost):
        await store.backend.settle(op(2), "s", (ack(a),), fetch)


async def test_a_repeated_call_is_answered_though_the_namespace_was_frozen(store: Store) -> None:
    first = await store.backend.enqueue(op(1), (job("a"),))
    written = await store.backend.write_state(op(1, channel=8), Effects(writes=(add("n"),)))
    epoch = (await store.backend.info()).epoch
    await store.backend.set_mode(store.op(), "frozen", epoch + 1)
    assert await store.backend.enqueue(op(1), (job("a"),)) == first
    assert await store.backend.write_state(op(1, channel=8), Effects(writes=(add("n"),))) == written


async def test_an_older_turn_is_stale(store: Store) -> None:
    await store.backend.enqueue(op(1), (job("a"),))
    await store.backend.enqueue(op(2), (job("b"),))
    with pytest.raises(StaleOp):
        await store.backend.enqueue(op(1), (job("a"),))
    with pytest.raises(StaleOp):
        await store.backend.write_state(op(1), Effects(writes=(put("k"),)))
    assert await store.read("k") is None


async def test_turns_may_leave_gaps(store: Store) -> None:
    await store.backend.enqueue(op(1), (job("a"),))
    assert (await store.backend.enqueue(op(90), (job("b"),)))[0].created
    with pytest.raises(StaleOp):
        await store.backend.enqueue(op(89), (job("c"),))


async def test_channels_and_clients_count_apart(store: Store) -> None:
    await store.backend.enqueue(op(5), (job("a"),))
    assert (await store.backend.enqueue(op(1, channel=8), (job("b"),)))[0].created
    assert (await store.backend.enqueue(op(5, client="else"), (job("c"),)))[0].created


async def test_a_refused_call_is_not_recorded(store: Store) -> None:
    await store.add("a")
    with pytest.raises(IdConflict):
        await store.backend.enqueue(op(1), (job("a", digest=b"other"),))
    assert (await store.backend.enqueue(op(1), (job("b"),)))[0].created


async def test_a_call_that_changed_nothing_may_be_done_again(store: Store) -> None:
    await store.open_session()
    fetch = store.fetch()
    assert (await store.backend.settle(op(1), "s", (), fetch)).deliveries == ()
    await store.add("a")
    assert [each.id for each in (await store.backend.settle(op(1), "s", (), fetch)).deliveries] == ["a"]


async def test_a_repeated_open_is_no_second_use_of_the_id(store: Store) -> None:
    assert (await store.backend.open_session(op(1), SESSION)).open
    assert (await store.backend.open_session(op(1), SESSION)).open
    with pytest.raises(InvalidState):
        await store.backend.open_session(op(2), SESSION)


async def test_a_repeated_close_brings_its_reply(store: Store) -> None:
    await store.fill(2)
    await store.dequeue(count=2)
    first = await store.backend.close_session(op(1), "s")
    assert sorted(first.ids) == ["q-0000", "q-0001"]
    assert sorted((await store.backend.close_session(op(1), "s")).ids) == sorted(first.ids)


async def test_a_repeated_amend_changes_nothing_more(store: Store) -> None:
    await store.fill(2)
    effects = Effects(writes=(add("n"),))
    where, cancel, finish = Filter(queues=("q",)), Change(kind="cancel"), Change(kind="finish")
    first = await store.backend.amend(op(1), where, cancel, None, 500, effects)
    await store.add("new")
    again = await store.backend.amend(op(1), where, cancel, None, 500, effects)
    assert sorted(again.changed) == sorted(first.changed) == ["q-0000", "q-0001"]
    assert await store.status("new") == "pending"
    assert await store.write(add("n", 0)) == (1,)
    assert (await store.backend.amend(op(2), where, finish, None, 500)).changed == ("new",)


async def test_a_repeated_put_of_limits_does_not_undo_a_later_one(store: Store) -> None:
    await store.backend.put_limits(op(1), (Limits(queue="q", pending_max=1),))
    await store.limit(pending_max=2)
    await store.backend.put_limits(op(1), (Limits(queue="q", pending_max=1),))
    info = await store.queue()
    assert info is not None
    assert info.limits.pending_max == 2


async def test_a_repeated_put_of_a_schedule_is_no_conflict_with_itself(store: Store) -> None:
    schedule = Schedule(id="n", spec=b"{}", next_at_ms=5)
    first = await store.backend.put_schedule(op(1), schedule)
    assert await store.backend.put_schedule(op(1), schedule) == first
    with pytest.raises(StateConflict):
        await store.backend.put_schedule(op(2), schedule)


async def test_a_repeated_fire_says_yes_again(store: Store) -> None:
    schedule = await store.backend.put_schedule(store.op(), Schedule(id="n", spec=b"{}", next_at_ms=5))
    for _ in range(2):
        assert await store.backend.fire(op(1), schedule, 5, (job("a"),), 10)
    assert not await store.backend.fire(op(2), schedule, 5, (job("a"),), 10)


async def test_a_repeated_write_of_state_counts_once(store: Store) -> None:
    effects = Effects(writes=(add("n", 5), put("k")), records=(Record("r", b"1"),))
    for _ in range(2):
        assert await store.backend.write_state(op(1), effects) == (5, 1)
    assert len(await store.backend.read_records("r", 0, 9)) == 1


async def test_a_repeated_lock_keeps_its_fence(store: Store) -> None:
    first = await store.backend.lock(op(1), "l", "me", 1_000)
    assert (await store.backend.lock(op(1), "l", "me", 1_000)).fence == first.fence
    await store.backend.lock(store.op(), "l", "me", 0)
    other = await store.backend.lock(store.op(), "l", "you", 1_000)
    assert (await store.backend.lock(op(1), "l", "me", 1_000)).fence == first.fence
    assert (await store.backend.lock(store.op(), "l", "you", 1_000)).fence == other.fence


async def test_a_repeated_change_of_mode_is_no_conflict_with_itself(store: Store) -> None:
    epoch = (await store.backend.info()).epoch
    for _ in range(2):
        info = await store.backend.set_mode(op(1), "draining", epoch + 1)
        assert (info.mode, info.epoch) == ("draining", epoch + 1)
    with pytest.raises(StateConflict):
        await store.backend.set_mode(op(2), "open", epoch + 1)


async def test_a_reply_lost_with_the_connection_is_found_by_another_client(store: Store, other: Store) -> None:
    await store.fill(2)
    await store.open_session()
    fetch = store.fetch(count=2)
    first = await store.backend.settle(op(1), "s", (), fetch)
    again = await other.backend.settle(op(1), "s", (), fetch)
    assert again.deliveries == first.deliveries
    with pytest.raises(StaleOp):
        await other.backend.settle(op(0), "s", (), fetch)
