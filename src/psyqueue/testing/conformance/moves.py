"""Every legal move of `job.TRANSITIONS` happens, each made by the verb that is said to make it; no other happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from psyqueue.backend import AnyOutcome, Change, Delivery, Dependency, Gate
from psyqueue.job import TRANSITIONS
from psyqueue.testing.conformance.handle import DAY_MS, PAGE_MAX, Store, ack, cancelled, dead, job, release, retry

Scene = Callable[[Store], Awaitable[object]]
HOUR_MS = 3_600_000


async def nothing(store: Store) -> None:
    await store.enqueue(job("p", "other"), job("g", "other", gate=Gate("g")))


async def waiting(store: Store) -> None:
    await nothing(store)
    await store.add("a", needs=(Dependency("p"),), expires_in_ms=DAY_MS)


async def waiting_until(store: Store) -> None:
    await nothing(store)
    await store.add("a", needs=(Dependency("p"),), delay_ms=HOUR_MS)


async def scheduled(store: Store) -> None:
    await store.add("a", delay_ms=HOUR_MS, expires_in_ms=DAY_MS)


async def pending(store: Store) -> None:
    await store.add("a", expires_in_ms=DAY_MS)


async def active(store: Store) -> None:
    await store.add("a", gate=Gate("g"), max_retries=0, max_lost=9)
    await store.dequeue_one()


async def active_with_retries(store: Store) -> None:
    await store.add("a")
    await store.dequeue_one()


async def died(store: Store) -> None:
    await store.add("a", gate=Gate("g"))
    await store.bring_dead("a")


async def end_parent(store: Store) -> None:
    await store.settle_one(ack((await store.dequeue("other", count=2))[0]))


async def fail_parent(store: Store) -> None:
    await store.settle_one(dead((await store.dequeue("other", count=2))[0]))


async def expire(store: Store) -> None:
    await store.advance(DAY_MS)
    await store.backend.promote(("q",), PAGE_MAX)


async def due(store: Store) -> None:
    await store.advance(HOUR_MS)
    await store.backend.promote(("q",), PAGE_MAX)


async def replay(store: Store) -> None:
    await store.amend(Change(kind="replay"), "a")


async def replay_at_a_full_gate(store: Store) -> None:
    await store.add("b", gate=Gate("g"))
    await replay(store)


async def enqueue_hopeless(store: Store) -> None:
    await fail_parent(store)
    await store.add("a", needs=(Dependency("p"),))


def change(kind: Any, **fields: Any) -> Scene:
    return lambda store: store.amend(Change(kind=kind, **fields), "a")


def settle(make: Callable[[Delivery], AnyOutcome]) -> Scene:
    """Hand the held job back, so that its next delivery is at hand, and end that one."""

    async def act(store: Store) -> None:
        await store.close_session("s")
        await store.settle_one(make(await store.dequeue_one(session="s2")), session="s2")

    return act


SCENES: dict[tuple[str, str], tuple[Scene, Scene]] = {
    ("new", "pending"): (nothing, lambda store: store.add("a")),
    ("new", "scheduled"): (nothing, lambda store: store.add("a", delay_ms=1)),
    ("new", "waiting"): (nothing, lambda store: store.add("a", gate=Gate("g"))),
    ("new", "cancelled"): (nothing, enqueue_hopeless),
    ("waiting", "pending"): (waiting, end_parent),
    ("waiting", "scheduled"): (waiting_until, end_parent),
    ("waiting", "cancelled"): (waiting, fail_parent),
    ("waiting", "completed"): (waiting, change("finish")),
    ("waiting", "dead"): (waiting, expire),
    ("scheduled", "pending"): (scheduled, due),
    ("scheduled", "cancelled"): (scheduled, change("cancel")),
    ("scheduled", "completed"): (scheduled, change("finish")),
    ("scheduled", "dead"): (scheduled, expire),
    ("pending", "active"): (pending, lambda store: store.dequeue_one()),
    ("pending", "scheduled"): (pending, change("run_at", run_at_ms=1 << 45)),
    ("pending", "cancelled"): (pending, change("cancel")),
    ("pending", "completed"): (pending, change("finish")),
    ("pending", "dead"): (pending, expire),
    ("active", "completed"): (active, settle(ack)),
    ("active", "scheduled"): (active_with_retries, settle(retry)),
    ("active", "dead"): (active, settle(retry)),
    ("active", "pending"): (active, lambda store: store.close_session("s")),
    ("active", "cancelled"): (active, settle(cancelled)),
    ("dead", "pending"): (died, replay),
    ("dead", "waiting"): (died, replay_at_a_full_gate),
}


@pytest.mark.parametrize(("before", "after"), SCENES, ids=[f"{a}-{b}" for a, b in SCENES])
async def test_every_legal_move_happens(store: Store, before: str, after: str) -> None:
    setting, act = SCENES[before, after]
    await setting(store)
    assert (await store.status("a") or "new") == before
    await act(store)
    assert await store.status("a") == after


def test_the_moves_that_happen_are_the_table() -> None:
    table = {(before, after) for before, moves in TRANSITIONS.items() for after in moves}
    assert set(SCENES) == table


@pytest.mark.parametrize("end", ["completed", "cancelled", "dead"])
async def test_an_ended_job_does_not_move_by_itself(store: Store, end: str) -> None:
    """Whatever is done with its old token, and however long it lies there."""
    await store.add("a", delay_ms=5, expires_in_ms=60_000)
    await store.advance(5)
    delivery = await store.dequeue_one()
    makers: dict[str, Callable[[Delivery], AnyOutcome]] = {"completed": ack, "cancelled": cancelled, "dead": dead}
    await store.settle_one(makers[end](delivery))
    before = await store.view("a")
    for outcome in (ack(delivery), retry(delivery), dead(delivery), release(delivery), cancelled(delivery)):
        await store.settle_one(outcome)
    await store.lose()
    await store.advance(120_000)
    await store.backend.promote(("q",), PAGE_MAX)
    assert await store.dequeue(session="s2") == ()
    assert await store.view("a") == before
