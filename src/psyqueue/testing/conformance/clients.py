"""Two clients of one store: each job once, one truth, and a transaction of the caller's own."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from psyqueue.backend import Dependency, Gate, Op, Unique
from psyqueue.errors import InvalidOption, InvalidState, KeyConflict, NamespaceFrozen, SessionLost, StateConflict
from psyqueue.testing.conformance.handle import LEASE_MS, PAGE_MAX, BackendFactory, Store, ack, job, put, token_seed
from psyqueue.testing.conformance.modes import switch
from psyqueue.testing.conformance.waking import Listener, Waiter, heard, woken


async def take_all(store: Store, session: str) -> list[str]:
    """Dequeue and ack, a few at a time, until nothing comes."""
    taken: list[str] = []
    while True:
        deliveries = await store.dequeue(count=7, session=session)
        if not deliveries:
            return taken
        reply = await store.settle(*(ack(each) for each in deliveries), session=session)
        assert {each.verdict for each in reply.settled} == {"ok"}
        taken += [each.id for each in deliveries]


async def test_what_one_client_did_the_other_sees(store: Store, other: Store) -> None:
    await store.add("a")
    assert await other.status("a") == "pending"
    delivery = await other.dequeue_one(session="t")
    assert await store.status("a") == "active"
    assert (await store.ack(delivery, session="s")).verdict == "lost"
    assert (await other.ack(delivery, session="t")).verdict == "ok"
    assert await store.status("a") == "completed"


async def test_clients_that_dequeue_at_once_get_each_job_once(store: Store, other: Store) -> None:
    ids = await store.fill(200)
    taken = await asyncio.gather(take_all(store, "s"), take_all(other, "t"))
    assert sorted([*taken[0], *taken[1]]) == ids
    assert await store.count("completed") == 200


async def test_clients_that_enqueue_at_once_lose_nothing(store: Store, other: Store) -> None:
    async def put_in(client: Store, prefix: str) -> None:
        for number in range(30):
            await client.enqueue(job(f"{prefix}{number}"), job(f"both-{number}"))

    await asyncio.gather(put_in(store, "s"), put_in(other, "t"))
    assert await store.count("pending") == 90
    assert len(set(await other.dequeue_ids(session="t"))) == 90


async def test_one_of_two_clients_gets_a_unique_key(store: Store, other: Store) -> None:
    for number in range(20):
        unique = Unique(f"u{number}", on_conflict="reject")
        replies = await asyncio.gather(
            store.enqueue(job(f"s{number}", unique=unique)),
            other.enqueue(job(f"t{number}", unique=unique)),
            return_exceptions=True,
        )
        assert sorted(isinstance(reply, KeyConflict) for reply in replies) == [False, True]
    assert await store.count("pending") == 20


async def test_a_gate_holds_over_clients(store: Store, other: Store) -> None:
    async def put_in(client: Store) -> None:
        for number in range(10):  # one after the other: a channel has one call in flight
            await client.add(f"{client.client}{number}", gate=Gate("g"))

    await asyncio.gather(put_in(store), put_in(other))
    assert await store.count("pending") == 1
    taken: list[str] = []
    while len(taken) < 20:
        for client, session in ((store, "s"), (other, "t")):
            deliveries = await client.dequeue(count=5, session=session)
            assert len(deliveries) <= 1
            await client.settle(*(ack(each) for each in deliveries), session=session)
            taken += [each.id for each in deliveries]
    assert len(set(taken)) == 20


async def test_parents_that_end_on_two_clients_enable_their_child_once(store: Store, other: Store) -> None:
    for turn in range(10):
        await store.enqueue(job(f"p{turn}", "p"), job(f"r{turn}", "r"))
        await store.add(f"c{turn}", "c", needs=(Dependency(f"p{turn}"), Dependency(f"r{turn}")))
        p, r = await store.dequeue_one("p", session="s"), await other.dequeue_one("r", session="t")
        await asyncio.gather(store.ack(p, session="s"), other.ack(r, session="t"))
        assert await store.dequeue_ids("c", session="s") == [f"c{turn}"]


async def test_reapers_that_race_reap_once(store: Store, other: Store) -> None:
    ids = await store.fill(20)
    await store.dequeue(count=20)
    await store.backend.reap(PAGE_MAX)
    await store.advance(LEASE_MS + 1)
    done = await asyncio.gather(*(client.backend.reap(PAGE_MAX) for client in (store, other) for _ in range(3)))
    assert sorted(each for reply in done for each in reply.ids) == ids
    assert {(await store.view(each)).lost for each in ids} == {1}


async def test_a_session_reaped_by_one_client_is_lost_to_the_other(store: Store, other: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    await other.backend.reap(PAGE_MAX)
    await other.advance(LEASE_MS + 1)
    await other.backend.reap(PAGE_MAX)
    with pytest.raises(SessionLost):
        await store.ack(delivery)
    assert not (await store.renew()).open


async def test_limits_and_modes_hold_for_every_client_at_once(store: Store, other: Store) -> None:
    await store.fill(3)
    await store.limit(paused_until_ms=-1)
    assert await other.dequeue(session="t") == ()
    await store.limit()
    epoch = (await other.backend.info()).epoch
    await other.backend.set_mode(other.op(), "frozen", epoch + 1)
    with pytest.raises(NamespaceFrozen):
        await store.add("a")
    with pytest.raises(NamespaceFrozen):
        await store.dequeue()


async def test_compare_and_set_holds_over_clients(store: Store, other: Store) -> None:
    replies = await asyncio.gather(
        *(client.write(put("k", expected=0)) for client in (store, other)), return_exceptions=True
    )
    assert sorted(isinstance(reply, StateConflict) for reply in replies) == [False, True]


async def test_a_clock_moved_by_one_client_is_moved_for_all(store: Store, other: Store) -> None:
    await store.advance(5_000)
    assert await other.now_ms() == await store.now_ms()


async def test_an_enqueue_wakes_a_waiter_of_another_client(store: Store, other: Store) -> None:
    if not store.backend.capabilities.wakes_across_processes:
        pytest.skip("capabilities.wakes_across_processes is False: waiters of other clients poll")
    assert await woken(Waiter(other, ("q",)), lambda: store.add("a"))


async def test_a_body_reaches_a_listener_of_another_client(store: Store, other: Store) -> None:
    if not store.backend.capabilities.wakes_across_processes:
        pytest.skip("capabilities.wakes_across_processes is False: messages stay in their client")
    assert await heard(Listener(other, "ready", "t"), store, [("t", b"1")], 1) == [("t", b"1")]


async def test_a_client_that_left_takes_nothing_with_it(store: Store, other: Store) -> None:
    await other.fill(3)
    deliveries = await other.dequeue(count=2, session="t")
    await other.backend.disconnect()
    assert await store.count("active") == 2
    await other.backend.connect()
    assert (await other.settle(*(ack(each) for each in deliveries), session="t")).settled[0].verdict == "ok"


async def test_ops_are_remembered_over_clients(store: Store, other: Store) -> None:
    op = Op("shared", 0, 1)
    first = await store.backend.enqueue(op, (job("a"),))
    assert await other.backend.enqueue(op, (job("a"),)) == first


# ── the caller's own transaction ──────────────────────────────────────────────────────────────────────────────────────
async def test_a_connection_of_a_foreign_kind_cannot_be_bound(store: Store) -> None:
    with pytest.raises(InvalidOption):
        store.backend.bind(object())


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_what_is_enqueued_in_a_transaction_is_true_if_it_commits(
    store: Store, backend_factory: BackendFactory, ending: str
) -> None:
    if backend_factory.transaction is None:
        pytest.skip("this store has no transactions that a caller could bind")
    async with backend_factory.transaction(store.backend) as transaction:
        bound = store.backend.bind(transaction.connection)
        (reply,) = await bound.enqueue((job("a"),))
        assert reply.created
        await getattr(transaction, ending)()
    assert await store.status("a") == ("pending" if ending == "commit" else None)


async def test_draining_looks_at_what_is_enqueued_in_a_transaction(
    store: Store, backend_factory: BackendFactory
) -> None:
    if backend_factory.transaction is None:
        pytest.skip("this store has no transactions that a caller could bind")
    await store.add("p")
    await switch(store, "draining")
    async with backend_factory.transaction(store.backend) as transaction:
        bound = store.backend.bind(transaction.connection)
        with pytest.raises(NamespaceFrozen):
            await bound.enqueue((job("free"),))
        (reply,) = await bound.enqueue((job("a", needs=(Dependency("p"),)),))
        assert reply.status == "waiting"
        await transaction.commit()
    assert await store.statuses("free", "a") == [None, "waiting"]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_what_is_settled_in_a_transaction_is_true_if_it_commits(
    store: Store, backend_factory: BackendFactory, ending: str
) -> None:
    if backend_factory.transaction is None:
        pytest.skip("this store has no transactions that a caller could bind")
    await store.add("a")
    delivery = await store.dequeue_one()
    async with backend_factory.transaction(store.backend) as transaction:
        bound = store.backend.bind(transaction.connection)
        (settled,) = await bound.settle("s", (ack(delivery),))
        assert settled.verdict == "ok"
        await getattr(transaction, ending)()
    assert await store.status("a") == ("completed" if ending == "commit" else "active")


# ── a transaction for a handler ───────────────────────────────────────────────────────────────────────────────────────
async def test_a_store_without_transactions_says_so(store: Store) -> None:
    if store.backend.capabilities.has_transactions:
        pytest.skip("this store has them")
    with pytest.raises(InvalidState):
        await store.backend.begin()


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_transaction_of_the_store_commits_with_the_outcome(store: Store, ending: str) -> None:
    if not store.backend.capabilities.has_transactions:
        pytest.skip("this store has no transactions for handlers")
    await store.add("a")
    delivery = await store.dequeue_one()
    transaction = await store.backend.begin()
    await store.backend.bind(transaction.connection).enqueue((job("b"),))
    if ending == "commit":
        settled = await transaction.commit("s", ack(delivery))
        assert (settled.verdict, settled.status) == ("ok", "completed")
    await transaction.rollback()
    expected = ["completed", "pending"] if ending == "commit" else ["active", None]
    assert await store.statuses("a", "b") == expected


async def test_an_outcome_that_does_not_count_takes_the_transaction_with_it(store: Store) -> None:
    if not store.backend.capabilities.has_transactions:
        pytest.skip("this store has no transactions for handlers")
    await store.add("a")
    await store.add("c")
    delivery, other = await store.dequeue(count=2)
    await store.settle(ack(delivery))
    void = token_seed(0)
    for late in (ack(delivery), replace(ack(other), completion_token=void)):
        transaction = await store.backend.begin()
        await store.backend.bind(transaction.connection).enqueue((job("b"),))
        settled = await transaction.commit("s", late)
        assert settled.verdict == ("already" if late.job_id == delivery.id else "lost")
        assert await store.status("b") is None
