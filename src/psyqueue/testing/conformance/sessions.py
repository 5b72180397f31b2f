"""Sessions: one lease for all the jobs of a worker; renewal, closing, and taking jobs back from the lost."""

from __future__ import annotations

import msgspec
import pytest

from psyqueue.errors import InvalidState, SessionLost
from psyqueue.job import lost_delay_ms
from psyqueue.testing.conformance.handle import LEASE_MS, PAGE_MAX, Store, ack, retry

GRACE_MS = 60_000


async def test_an_opened_session_is_listed(store: Store) -> None:
    renewal = await store.open_session("s", lease_ms=5_000, queues=("a", "b"))
    assert (renewal.open, renewal.cancel_requested, renewal.paused) == (True, (), ())
    assert renewal.now_ms == await store.now_ms()
    (info,), cursor = await store.backend.sessions(None, 10)
    assert (info.session.id, info.session.worker, info.session.queues) == ("s", "worker of s", ("a", "b"))
    assert (info.session.lease_ms, info.held, info.expires_in_ms) == (5_000, 0, 5_000)
    assert (info.opened_at_ms, cursor) == (renewal.now_ms, None)


async def test_sessions_are_listed_by_id_in_pages(store: Store) -> None:
    for name in ("c", "a", "d", "b"):
        await store.open_session(name)
    await store.close_session("d")
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page, cursor = await store.backend.sessions(cursor, 2)
        assert len(page) <= 2
        seen += [info.session.id for info in page]
        if cursor is None:
            break
    assert seen == ["a", "b", "c"]


async def test_a_session_id_is_used_once(store: Store) -> None:
    await store.open_session("s")
    with pytest.raises(InvalidState):
        await store.open_session("s")
    await store.close_session("s")
    with pytest.raises(InvalidState):
        await store.open_session("s")


async def test_a_session_counts_what_it_holds(store: Store) -> None:
    await store.fill(3)
    deliveries = await store.dequeue(count=3)
    await store.ack(deliveries[0])
    (info,), _ = await store.backend.sessions(None, 10)
    assert info.held == 2


async def test_a_fetch_that_counts_says_what_its_session_holds_afterwards(store: Store) -> None:
    await store.fill(9)
    await store.dequeue(session="other", count=2)
    first, _ = await store.dequeue(count=2)
    reply = await store.settle(ack(first), fetch=store.fetch(count=3, counts=True))
    assert (len(reply.deliveries), reply.held) == (3, 4)
    assert (await store.settle(fetch=store.fetch(count=1))).held is None
    assert (await store.settle(fetch=store.fetch(count=0, counts=True))).held == 5


async def test_a_fetch_that_finds_nothing_counts_too(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    assert (await store.settle(fetch=store.fetch("r", counts=True))).held == 1
    assert (await store.settle(ack(delivery), fetch=store.fetch("r", counts=True))).held == 0


async def test_a_repeat_counts_nothing(store: Store) -> None:
    await store.fill(2)
    await store.open_session("s")
    op, fetch = store.op(), store.fetch(count=2, counts=True)
    first = await store.backend.settle(op, "s", (), fetch)
    again = await store.backend.settle(op, "s", (), fetch)
    assert (first.held, again.held, again.deliveries) == (2, None, first.deliveries)


async def test_renewal_extends_the_lease(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    await store.backend.reap(PAGE_MAX)
    for _ in range(3):
        await store.advance(LEASE_MS - 1)
        assert (await store.renew()).open
        assert (await store.backend.reap(PAGE_MAX)).ids == ()
    assert (await store.ack(delivery)).verdict == "ok"


async def test_a_late_renewal_counts_as_long_as_nobody_reaped(store: Store) -> None:
    await store.add("a")
    await store.dequeue_one()
    await store.backend.reap(PAGE_MAX)
    await store.advance(LEASE_MS + 1)
    (info,), _ = await store.backend.sessions(None, 10)
    assert info.expires_in_ms == -1
    assert (await store.renew()).open
    assert (await store.backend.reap(PAGE_MAX)).ids == ()
    assert await store.status("a") == "active"


async def test_a_reaped_or_unknown_session_is_not_renewed(store: Store) -> None:
    await store.open_session()
    await store.lose()
    assert not (await store.renew()).open
    assert not (await store.renew("nobody")).open
    assert await store.backend.sessions(None, 10) == ((), None)


async def test_renewal_tells_what_to_cancel_and_what_is_paused(store: Store) -> None:
    await store.open_session("s", queues=("q", "r"))
    await store.fill(2)
    a, _ = await store.dequeue(count=2)
    await store.cancel(a.id)
    await store.limit("r", paused_until_ms=-1)
    await store.limit("x", paused_until_ms=-1)
    renewal = await store.renew()
    assert (renewal.cancel_requested, renewal.paused) == ((a.id,), ("r",))


async def test_nothing_is_reaped_before_its_lease_ends(store: Store) -> None:
    await store.add("a")
    await store.dequeue_one()
    await store.backend.reap(PAGE_MAX)
    await store.advance(LEASE_MS - 1)
    assert (await store.backend.reap(PAGE_MAX)).ids == ()
    assert await store.status("a") == "active"


async def test_the_first_loss_brings_a_job_back_to_its_old_place(store: Store) -> None:
    await store.fill(3)
    await store.dequeue(count=2)
    assert sorted((await store.lose()).ids) == ["q-0000", "q-0001"]
    found = await store.view("q-0000")
    assert (found.status, found.attempt, found.lost, found.session_id, found.worker) == ("pending", 1, 1, None, None)
    deliveries = await store.dequeue(count=3, session="t")
    assert [(each.id, each.attempt, each.lost) for each in deliveries] == [
        ("q-0000", 2, 1),
        ("q-0001", 2, 1),
        ("q-0002", 1, 0),
    ]


async def test_a_second_loss_waits_before_the_next_try(store: Store) -> None:
    await store.add("a")
    for session in ("s", "t"):
        await store.dequeue_one(session=session)
        await store.lose()
    found = await store.view("a")
    assert (found.status, found.lost, found.attempt) == ("scheduled", 2, 2)
    assert found.run_at_ms == await store.now_ms() + lost_delay_ms(2)


async def test_a_job_that_kills_its_workers_ends_dead(store: Store) -> None:
    await store.add("a", max_retries=100, max_lost=2)
    for session in ("s", "t", "u"):
        await store.advance(lost_delay_ms(9))
        await store.dequeue_one(session=session)
        await store.lose()
    found = await store.view("a")
    assert (found.status, found.reason, found.lost, found.attempt) == ("dead", "lost", 3, 3)
    assert len(found.errors) == 3
    assert found.completed_at_ms == await store.now_ms()


async def test_a_loss_uses_up_a_retry(store: Store) -> None:
    await store.add("a", max_retries=0, max_lost=9)
    await store.dequeue_one()
    await store.lose()
    found = await store.view("a")
    assert (found.status, found.reason, found.lost) == ("dead", "exhausted", 1)


async def test_lost_too_often_comes_before_exhausted(store: Store) -> None:
    await store.add("a", max_retries=0, max_lost=0)
    await store.dequeue_one()
    await store.lose()
    assert (await store.view("a")).reason == "lost"


async def test_a_cancel_that_was_asked_for_comes_before_everything(store: Store) -> None:
    await store.add("a", max_retries=0, max_lost=0)
    await store.dequeue_one()
    await store.cancel("a", reason="enough")
    await store.lose()
    found = await store.view("a")
    assert (found.status, found.reason, found.lost) == ("cancelled", "enough", 1)


async def test_a_lost_run_leaves_an_error(store: Store) -> None:
    await store.add("a")
    await store.dequeue_one()
    await store.lose()
    (error,) = (await store.view("a")).errors
    told = msgspec.json.decode(error)
    assert (told["type"], told["session"], told["attempt"]) == ("WorkerLost", "s", 1)
    assert "worker of s" in told["message"]
    assert told["at_ms"] == await store.now_ms()


async def test_reaping_twice_is_reaping_once(store: Store) -> None:
    await store.add("a")
    await store.dequeue_one()
    assert (await store.lose()).ids == ("a",)
    before = await store.view("a")
    assert (await store.backend.reap(PAGE_MAX)).ids == ()
    assert await store.view("a") == before


async def test_reaping_is_bounded_and_says_that_there_is_more(store: Store) -> None:
    ids = await store.fill(5)
    await store.dequeue(count=5)
    await store.backend.reap(2)
    await store.advance(LEASE_MS + 1)
    seen: list[str] = []
    more = True
    while more:
        done = await store.backend.reap(2)
        assert len(done.ids) <= 2
        seen += done.ids
        more = done.more
    assert sorted(seen) == ids
    assert await store.dequeue_ids(session="t") == ids


async def test_a_session_is_closed_before_its_jobs_move(store: Store) -> None:
    """With a bound below what it holds the session is closed all the same: nobody may settle the rest."""
    await store.fill(3)
    deliveries = await store.dequeue(count=3)
    await store.backend.reap(1)
    await store.advance(LEASE_MS + 1)
    assert (await store.backend.reap(1)).more
    with pytest.raises(SessionLost):
        await store.settle(*(ack(each) for each in deliveries))
    assert not (await store.renew()).open


async def test_other_sessions_are_left_alone(store: Store) -> None:
    await store.fill(2)
    await store.dequeue(session="s")
    await store.backend.reap(PAGE_MAX)
    await store.advance(LEASE_MS // 2)
    await store.dequeue(session="t")
    await store.advance(LEASE_MS // 2 + 1)
    assert (await store.backend.reap(PAGE_MAX)).ids == ("q-0000",)
    assert await store.status("q-0001") == "active"


async def test_after_a_time_without_a_reaper_every_session_gets_one_lease_of_grace(store: Store) -> None:
    """A store that stopped, or a clock that jumped, must not take the jobs of workers that are alive."""
    await store.add("a")
    delivery = await store.dequeue_one()
    await store.backend.reap(PAGE_MAX)
    await store.advance(GRACE_MS + 1)
    assert (await store.backend.reap(PAGE_MAX)).ids == ()
    await store.advance(LEASE_MS - 1)
    assert (await store.backend.reap(PAGE_MAX)).ids == ()
    assert await store.status("a") == "active"
    await store.advance(2)
    assert (await store.backend.reap(PAGE_MAX)).ids == ("a",)
    with pytest.raises(SessionLost):
        await store.ack(delivery)


async def test_a_clock_that_goes_back_does_not_stretch_a_lease(store: Store) -> None:
    await store.add("a")
    await store.dequeue_one()
    await store.backend.reap(PAGE_MAX)
    await store.advance(-3_600_000)
    await store.backend.reap(PAGE_MAX)
    await store.advance(LEASE_MS + 1)
    assert (await store.backend.reap(PAGE_MAX)).ids == ("a",)


async def test_closing_gives_the_jobs_back_untouched(store: Store) -> None:
    ids = await store.fill(3)
    await store.dequeue(count=2)
    done = await store.close_session()
    assert (sorted(done.ids), done.more) == (ids[:2], False)
    found = await store.view(ids[0])
    assert (found.status, found.attempt, found.lost, found.errors) == ("pending", 0, 0, ())
    assert await store.dequeue_ids(session="t") == ids


async def test_closing_cancels_what_somebody_wanted_cancelled(store: Store) -> None:
    await store.add("a")
    await store.dequeue_one()
    await store.cancel("a")
    await store.close_session()
    assert await store.status("a") == "cancelled"


async def test_closing_is_bounded_and_goes_on(store: Store) -> None:
    await store.fill(600)
    await store.dequeue(count=500)
    await store.dequeue(count=100)
    first = await store.close_session()
    assert (len(first.ids), first.more) == (500, True)
    second = await store.close_session()
    assert (len(second.ids), second.more) == (100, False)
    assert await store.count("pending") == 600


async def test_closing_again_does_nothing(store: Store) -> None:
    await store.open_session()
    await store.close_session()
    done = await store.close_session()
    assert (done.ids, done.more) == ((), False)
    with pytest.raises(SessionLost):
        await store.settle()


async def test_a_settled_job_is_not_taken_back(store: Store) -> None:
    await store.fill(2)
    a, b = await store.dequeue(count=2)
    await store.ack(a)
    await store.retry(b, 1_000_000)
    assert (await store.lose()).ids == ()
    assert await store.statuses(a.id, b.id) == ["completed", "scheduled"]
    assert (await store.view(b.id)).lost == 0


async def test_losses_are_counted_apart_from_failures(store: Store) -> None:
    await store.add("a", max_retries=9)
    await store.dequeue_one()
    await store.lose()
    again = await store.dequeue_one(session="t")
    assert (again.attempt, again.lost) == (2, 1)
    await store.settle_one(retry(again), session="t")
    found = await store.view("a")
    assert (found.attempt, found.lost, len(found.errors)) == (2, 1, 2)
