"""Gates: at most so many of a key at a time, in order; a place is kept until its job ends."""

from __future__ import annotations

from typing import Any

import pytest

from psyqueue.backend import Change, Dependency, Gate, NewJob
from psyqueue.testing.conformance.handle import PAGE_MAX, Store, ack, cancelled, dead, job, release, retry, snooze


def gated(job_id: str, capacity: int = 1, queue: str = "q", key: str = "g", **fields: Any) -> NewJob:
    return job(job_id, queue, gate=Gate(key, capacity), **fields)


async def test_a_job_before_a_full_gate_waits(store: Store) -> None:
    replies = await store.enqueue(gated("a"), gated("b"), gated("c"))
    assert [reply.status for reply in replies] == ["pending", "waiting", "waiting"]
    assert await store.dequeue_ids() == ["a"]
    found = await store.view("b")
    assert (found.blocked_by, found.ready_number) == (("gate:g",), None)


@pytest.mark.parametrize("make", [ack, dead, cancelled])
async def test_the_end_of_a_job_lets_the_next_one_in_by_the_same_step(store: Store, make: Any) -> None:
    await store.enqueue(gated("a"), gated("b"), gated("c"))
    delivery = await store.dequeue_one()
    reply = await store.settle(make(delivery), fetch=store.fetch(count=5))
    assert [each.id for each in reply.deliveries] == ["b"]
    assert await store.status("c") == "waiting"


@pytest.mark.parametrize(
    "make", [retry, release, lambda delivery: snooze(delivery, 0)], ids=["retry", "release", "snooze"]
)
async def test_a_place_is_kept_until_the_job_ends(store: Store, make: Any) -> None:
    await store.enqueue(gated("a"), gated("b"))
    await store.settle_one(make(await store.dequeue_one()))
    assert await store.status("b") == "waiting"
    assert await store.dequeue_ids() == ["a"]


async def test_a_place_is_kept_over_the_loss_of_a_worker(store: Store) -> None:
    await store.enqueue(gated("a"), gated("b"))
    await store.dequeue_one()
    await store.lose()
    assert await store.dequeue_ids(session="t") == ["a"]
    assert await store.status("b") == "waiting"


async def test_jobs_pass_a_gate_in_the_order_of_enqueue(store: Store) -> None:
    """Priority orders what is pending; a gate of 1 is an order key and ignores it."""
    await store.enqueue(gated("a"), gated("b", priority=-5), gated("c", priority=5), gated("d", queue="other"))
    assert [await store.run("q", "other") for _ in range(4)] == ["a", "b", "c", "d"]


async def test_a_gate_of_two_lets_two_pass(store: Store) -> None:
    await store.enqueue(*(gated(each, 2) for each in "abcd"))
    assert await store.statuses(*"abcd") == ["pending", "pending", "waiting", "waiting"]
    a, b = await store.dequeue(count=5)
    await store.ack(b)
    assert await store.dequeue_ids() == ["c"]
    await store.ack(a)
    assert await store.dequeue_ids() == ["d"]


async def test_gates_of_different_keys_do_not_know_each_other(store: Store) -> None:
    await store.enqueue(gated("a", key="g"), gated("b", key="h"), job("c"), gated("d", key="G"))
    assert await store.dequeue_ids() == ["a", "b", "c", "d"]


async def test_a_scheduled_job_holds_its_place(store: Store) -> None:
    await store.enqueue(gated("a", delay_ms=1_000), gated("b"))
    assert await store.statuses("a", "b") == ["scheduled", "waiting"]
    await store.advance(1_000)
    assert await store.run() == "a"
    assert await store.run() == "b"


async def test_a_job_that_still_needs_others_takes_no_place(store: Store) -> None:
    await store.enqueue(job("p", "parent"), gated("a", needs=(Dependency("p"),)), gated("b"))
    assert await store.statuses("a", "b") == ["waiting", "pending"]
    await store.run("parent")
    assert await store.status("a") == "waiting"
    assert (await store.view("a")).blocked_by == ("gate:g",)
    assert await store.run() == "b"
    assert await store.run() == "a"


async def test_a_need_met_at_a_free_gate_enables_the_job(store: Store) -> None:
    await store.enqueue(job("p", "parent"), gated("a", needs=(Dependency("p"),)))
    await store.run("parent")
    assert await store.run() == "a"


async def test_a_job_let_in_with_run_at_ahead_is_scheduled(store: Store) -> None:
    await store.enqueue(gated("a"), gated("b", delay_ms=60_000))
    assert await store.status("b") == "waiting"
    await store.run()
    assert await store.status("b") == "scheduled"


async def test_a_cancelled_job_gives_up_its_place_in_the_line(store: Store) -> None:
    await store.enqueue(gated("a"), gated("b"), gated("c"))
    await store.cancel("b")
    assert await store.run() == "a"
    assert await store.run() == "c"


@pytest.mark.parametrize("kind", ["cancel", "finish"])
async def test_an_operator_who_ends_a_job_frees_its_place(store: Store, kind: Any) -> None:
    await store.enqueue(gated("a"), gated("b"))
    await store.amend(Change(kind=kind), "a")
    assert await store.dequeue_ids() == ["b"]


async def test_an_expired_job_frees_its_place(store: Store) -> None:
    await store.enqueue(gated("a", expires_in_ms=1_000), gated("b"))
    await store.advance(1_001)
    await store.backend.promote(("q",), PAGE_MAX)
    assert await store.dequeue_ids() == ["b"]


async def test_a_replayed_job_waits_before_a_full_gate(store: Store) -> None:
    await store.enqueue(gated("a"))
    await store.bring_dead("a")
    await store.enqueue(gated("b"), gated("c"))
    assert (await store.amend(Change(kind="replay"), "a")).changed == ("a",)
    assert await store.statuses("a", "b", "c") == ["waiting", "pending", "waiting"]
    seen = [await store.run() for _ in range(3)]
    assert sorted(seen) == ["a", "b", "c"]


async def test_a_replayed_job_takes_a_free_gate(store: Store) -> None:
    await store.enqueue(gated("a"))
    await store.bring_dead("a")
    await store.amend(Change(kind="replay"), "a")
    assert (await store.enqueue(gated("b")))[0].status == "waiting"
    assert await store.run() == "a"
    assert await store.run() == "b"


async def test_never_more_pass_than_the_capacity_in_a_long_run(store: Store) -> None:
    await store.enqueue(*(gated(f"{number:02}", 3, key="gh"[number % 2]) for number in range(30)))
    done: list[str] = []
    while len(done) < 30:
        deliveries = await store.dequeue(count=10)
        assert len(deliveries) <= 6
        await store.settle(*(ack(each) for each in deliveries))
        done += [each.id for each in deliveries]
    for parity in (0, 1):
        assert [each for each in done if int(each) % 2 == parity] == [f"{number:02}" for number in range(parity, 30, 2)]
