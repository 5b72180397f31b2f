"""Time: never before it is due, never after it expired, and always by the store's clock."""

from __future__ import annotations

from typing import Any

import pytest

from psyqueue.backend import Change, Dependency, Gate
from psyqueue.testing.conformance.handle import DAY_MS, PAGE_MAX, Store, job, release, retry, snooze


async def promote(store: Store, *queues: str) -> None:
    await store.backend.promote(queues or ("q",), PAGE_MAX)


async def test_the_test_clock_stands_still_and_moves_by_hand(store: Store) -> None:
    assert store.backend.capabilities.test_clock
    now_ms = await store.now_ms()
    assert await store.now_ms() == now_ms
    await store.advance(12_345)
    assert await store.now_ms() == now_ms + 12_345
    await store.advance(-2_345)
    assert await store.now_ms() == now_ms + 10_000


async def test_a_job_with_run_at_ahead_is_scheduled(store: Store) -> None:
    now_ms = await store.now_ms()
    replies = await store.enqueue(job("a", run_at_ms=now_ms + 1), job("b", delay_ms=1), job("c", run_at_ms=now_ms))
    assert [reply.status for reply in replies] == ["scheduled", "scheduled", "pending"]
    found = await store.view("a")
    assert (found.run_at_ms, found.ready_number, found.blocked_by) == (now_ms + 1, None, ("run_at",))


async def test_the_later_of_delay_and_run_at_wins(store: Store) -> None:
    now_ms = await store.now_ms()
    await store.add("a", delay_ms=100, run_at_ms=now_ms + 200)
    await store.add("b", delay_ms=300, run_at_ms=now_ms + 200)
    await store.add("c", delay_ms=300, run_at_ms=now_ms - 5)
    views = [await store.view(each) for each in "abc"]
    assert [view.run_at_ms - now_ms for view in views] == [200, 300, 300]


async def test_a_run_at_long_ago_is_now(store: Store) -> None:
    assert (await store.add("a", run_at_ms=5)).status == "pending"
    assert await store.run() == "a"


async def test_no_job_is_dequeued_before_it_is_due(store: Store) -> None:
    await store.add("a", delay_ms=10_000)
    for _ in range(2):
        await store.advance(4_999)
        await promote(store)
        assert await store.dequeue() == ()
    await store.advance(1)
    assert await store.dequeue() == ()
    await store.advance(1)
    assert await store.dequeue_ids() == ["a"]


async def test_a_fetch_promotes_what_is_due_in_its_queues_by_itself(store: Store) -> None:
    await store.enqueue(job("a", delay_ms=10), job("b", "other", delay_ms=10))
    await store.advance(10)
    assert await store.dequeue_ids() == ["a"]
    assert await store.status("b") == "scheduled"


async def test_promote_moves_what_is_due_in_the_queues_it_is_given(store: Store) -> None:
    await store.enqueue(job("a", delay_ms=10), job("b", delay_ms=20), job("c", "other", delay_ms=10))
    await store.advance(10)
    done = await store.backend.promote(("q",), PAGE_MAX)
    assert (done.ids, done.more) == (("a",), False)
    assert await store.statuses("a", "b", "c") == ["pending", "scheduled", "scheduled"]
    assert done.next_in_ms in {None, 10}


async def test_promote_is_bounded_and_says_that_there_is_more(store: Store) -> None:
    ids = await store.fill(5, delay_ms=10)
    await store.advance(10)
    seen: list[str] = []
    more = True
    while more:
        done = await store.backend.promote(("q",), 2)
        assert len(done.ids) <= 2
        seen += done.ids
        more = done.more
    assert (seen, await store.dequeue_ids()) == (ids, ids)


async def test_what_is_due_earlier_becomes_pending_earlier_within_a_step(store: Store) -> None:
    await store.enqueue(job("c", delay_ms=30), job("a", delay_ms=10), job("b", delay_ms=20), job("b2", delay_ms=20))
    await store.advance(30)
    assert await store.dequeue_ids() == ["a", "b", "b2", "c"]


async def test_a_promoted_job_obeys_priority(store: Store) -> None:
    await store.enqueue(job("a"), job("b", priority=1, delay_ms=10))
    await store.advance(10)
    assert await store.dequeue_ids() == ["b", "a"]


async def test_a_fetch_says_when_the_next_job_is_due(store: Store) -> None:
    await store.enqueue(job("a", delay_ms=500), job("b", delay_ms=300), job("c", "other", delay_ms=100))
    reply = await store.settle(fetch=store.fetch())
    assert reply.next_due_in_ms == 300
    await store.advance(100)
    reply = await store.settle(fetch=store.fetch())
    assert reply.next_due_in_ms == 200


async def test_a_clock_that_goes_back_makes_nothing_due_and_loses_nothing(store: Store) -> None:
    await store.enqueue(job("a", delay_ms=1_000), job("b"))
    await store.advance(-DAY_MS)
    assert await store.dequeue_ids() == ["b"]
    await store.advance(DAY_MS + 999)
    assert await store.dequeue() == ()
    await store.advance(1)
    assert await store.dequeue_ids() == ["a"]


async def test_a_pending_job_stays_pending_when_the_clock_goes_back(store: Store) -> None:
    await store.add("a", delay_ms=1_000)
    await store.advance(1_000)
    await promote(store)
    await store.advance(-DAY_MS)
    assert await store.dequeue_ids() == ["a"]


async def test_a_retry_of_one_job_brings_no_other_job_early(store: Store) -> None:
    await store.enqueue(job("a"), job("later", delay_ms=5_000), job("x", "other", delay_ms=2_000))
    await store.retry(await store.dequeue_one(), 1_500)
    await store.advance(1_500)
    assert await store.dequeue_ids("q", "other") == ["a"]


async def test_instants_far_away_are_kept_exactly(store: Store) -> None:
    far_ms = 4_102_444_800_000 * 2
    await store.add("a", run_at_ms=far_ms)
    assert (await store.view("a")).run_at_ms == far_ms


# ── expiry ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_an_expired_job_is_never_dequeued(store: Store) -> None:
    await store.enqueue(job("a", expires_in_ms=1_000), job("b"))
    await store.advance(1_000)
    assert await store.dequeue_ids() == ["b"]
    found = await store.view("a")
    assert (found.status, found.reason, found.attempt, found.errors) == ("dead", "expired", 0, ())
    assert found.completed_at_ms == await store.now_ms()


async def test_a_job_runs_up_to_its_expiry(store: Store) -> None:
    await store.add("a", expires_in_ms=1_000)
    await store.advance(999)
    assert await store.dequeue_ids() == ["a"]


@pytest.mark.parametrize("kind", ["pending", "scheduled", "needs", "gate"])
async def test_promote_ends_expired_jobs_wherever_they_wait(store: Store, kind: str) -> None:
    await store.add("p", "other", gate=Gate("g"))
    fields: dict[str, dict[str, Any]] = {
        "pending": {},
        "scheduled": {"delay_ms": 5_000},
        "needs": {"needs": (Dependency("p"),)},
        "gate": {"gate": Gate("g")},
    }
    await store.enqueue(job("a", expires_in_ms=1_000, **fields[kind]))
    await store.advance(1_000)
    done = await store.backend.promote(("q",), PAGE_MAX)
    assert done.ids == ("a",)
    assert (await store.view("a")).reason == "expired"


async def test_a_running_job_does_not_expire(store: Store) -> None:
    await store.add("a", expires_in_ms=1_000)
    delivery = await store.dequeue_one()
    await store.advance(5_000)
    await promote(store)
    assert (await store.ack(delivery)).verdict == "ok"


@pytest.mark.parametrize("make", [retry, snooze], ids=["retry", "snooze"])
async def test_no_run_begins_after_the_expiry_not_even_a_second_one(store: Store, make: Any) -> None:
    await store.add("a", expires_in_ms=1_000)
    await store.settle_one(make(await store.dequeue_one(), 2_000))
    await store.advance(2_000)
    assert await store.dequeue() == ()
    assert (await store.view("a")).reason == "expired"


async def test_a_job_given_back_after_its_expiry_does_not_run(store: Store) -> None:
    await store.add("a", expires_in_ms=1_000)
    delivery = await store.dequeue_one()
    await store.advance(1_000)
    await store.settle_one(release(delivery))
    assert await store.dequeue() == ()
    assert (await store.view("a")).reason == "expired"


async def test_many_expired_jobs_do_not_hide_a_live_one(store: Store) -> None:
    await store.fill(250, expires_in_ms=1_000)
    await store.add("alive")
    await store.advance(1_000)
    seen: list[str] = []
    for _ in range(10):
        reply = await store.settle(fetch=store.fetch(count=10))
        seen += [each.id for each in reply.deliveries]
        if not reply.more:
            break
    assert seen == ["alive"]
    await promote(store)
    assert await store.count("dead") == 250


async def test_an_expired_job_can_be_replayed(store: Store) -> None:
    await store.add("a", expires_in_ms=1_000)
    await store.advance(1_000)
    await promote(store)
    assert (await store.amend(Change(kind="replay"), "a")).changed == ("a",)
    assert await store.dequeue_ids() == ["a"]
