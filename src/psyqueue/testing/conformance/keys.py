"""Unique keys (one live holder) and idempotency keys (the first enqueue of a window wins)."""

from __future__ import annotations

from typing import Any

import pytest

from psyqueue.backend import Change, Dependency, Enqueued, Idempotency, NewJob, Unique
from psyqueue.errors import KeyConflict, TooLarge
from psyqueue.job import Status
from psyqueue.testing.conformance.handle import PAGE_MAX, Store, ack, cancelled, dead, job, release, retry, snooze

BEFORE_START: tuple[Status, ...] = ("waiting", "scheduled", "pending")


def only(job_id: str, on_conflict: Any = "existing", key: str = "u", **fields: Any) -> NewJob:
    return job(job_id, unique=Unique(key, on_conflict=on_conflict), **fields)


def first(job_id: str, window_ms: int = 60_000, key: str = "i", **fields: Any) -> NewJob:
    return job(job_id, idempotency=Idempotency(key, window_ms), **fields)


# ── unique ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_held_unique_key_brings_its_holder(store: Store) -> None:
    await store.enqueue(only("a"))
    assert await store.enqueue(only("b", digest=b"other")) == (Enqueued("a", created=False, status="pending"),)
    assert await store.status("b") is None


async def test_a_held_unique_key_is_refused_if_asked_so(store: Store) -> None:
    await store.enqueue(only("a"))
    with pytest.raises(KeyConflict) as caught:
        await store.enqueue(job("x"), only("b", "reject"))
    assert (caught.value.existing_job_id, caught.value.key) == ("a", "u")
    assert await store.statuses("x", "b") == [None, None]


async def test_a_held_unique_key_replaces_a_holder_that_has_not_started(store: Store) -> None:
    await store.enqueue(only("a", payload=b"1"), only("z", key="other"))
    before = await store.view("a")
    new = only("b", "replace", payload=b"2", cold=b'{"c":2}', priority=7, digest=b"two", expires_in_ms=90_000)
    assert await store.enqueue(new) == (Enqueued("a", created=False, status="pending"),)
    found = await store.view("a")
    assert (found.job.payload, found.job.cold, found.job.priority, found.job.digest) == (b"2", b'{"c":2}', 7, b"two")
    assert found.expires_at_ms == await store.now_ms() + 90_000
    assert (found.job.name, found.created_at_ms, found.generation) == ("work", before.created_at_ms, 0)
    assert await store.status("b") is None
    assert await store.dequeue_ids() == ["a", "z"]


async def test_replacing_moves_the_due_time_both_ways(store: Store) -> None:
    await store.enqueue(only("a"))
    assert (await store.enqueue(only("b", "replace", delay_ms=5_000)))[0].status == "scheduled"
    assert await store.dequeue() == ()
    assert (await store.view("a")).run_at_ms == await store.now_ms() + 5_000
    await store.enqueue(only("c", "replace"))
    assert await store.dequeue_ids() == ["a"]


async def test_replacing_leaves_a_waiting_holder_waiting(store: Store) -> None:
    await store.enqueue(job("p", "parent"), only("a", needs=(Dependency("p"),)))
    assert (await store.enqueue(only("b", "replace", payload=b"2")))[0] == Enqueued("a", False, "waiting")
    await store.run("parent")
    assert (await store.dequeue_one()).payload == b"2"


async def test_replacing_an_active_holder_changes_nothing(store: Store) -> None:
    await store.enqueue(only("a", payload=b"1"))
    await store.dequeue_one()
    before = await store.view("a")
    assert await store.enqueue(only("b", "replace", payload=b"2")) == (Enqueued("a", created=False, status="active"),)
    assert await store.view("a") == before


@pytest.mark.parametrize("make", [ack, dead, cancelled])
async def test_the_end_of_its_holder_frees_a_unique_key(store: Store, make: Any) -> None:
    await store.enqueue(only("a"))
    await store.settle_one(make(await store.dequeue_one()))
    assert (await store.enqueue(only("b", "reject")))[0].created


@pytest.mark.parametrize(
    "make", [retry, release, lambda delivery: snooze(delivery, 9)], ids=["retry", "release", "snooze"]
)
async def test_a_unique_key_is_kept_until_the_end(store: Store, make: Any) -> None:
    await store.enqueue(only("a"))
    await store.settle_one(make(await store.dequeue_one()))
    assert (await store.enqueue(only("b")))[0].job_id == "a"


async def test_a_unique_key_can_be_let_go_at_the_start(store: Store) -> None:
    await store.enqueue(job("a", unique=Unique("u", BEFORE_START)))
    delivery = await store.dequeue_one()
    assert (await store.enqueue(job("b", unique=Unique("u", BEFORE_START))))[0].created
    await store.retry(delivery)
    assert (await store.enqueue(job("c", unique=Unique("u", BEFORE_START))))[0].job_id == "b"
    assert sorted(await store.dequeue_ids()) == ["a", "b"]


@pytest.mark.parametrize("way", ["cancel", "finish", "expire", "reap"])
async def test_every_way_to_end_frees_a_unique_key(store: Store, way: str) -> None:
    await store.enqueue(only("a", max_lost=0, expires_in_ms=1_000 if way == "expire" else None))
    if way == "expire":
        await store.advance(1_001)
        await store.backend.promote(("q",), PAGE_MAX)
    elif way == "reap":
        await store.dequeue_one()
        await store.lose()
    else:
        await store.amend(Change(kind="cancel" if way == "cancel" else "finish"), "a")
    assert (await store.enqueue(only("b")))[0].created


async def test_a_waiting_and_a_scheduled_job_hold_their_key(store: Store) -> None:
    await store.enqueue(job("p"), only("a", needs=(Dependency("p"),)), only("s", key="v", delay_ms=1_000))
    assert [reply.job_id for reply in await store.enqueue(only("b"), only("c", key="v"))] == ["a", "s"]


async def test_two_of_a_key_in_one_batch_are_one_job(store: Store) -> None:
    replies = await store.enqueue(only("a"), only("b"), only("c", key="v"))
    assert [(reply.job_id, reply.created) for reply in replies] == [("a", True), ("a", False), ("c", True)]


async def test_a_replay_takes_the_unique_key_or_is_skipped(store: Store) -> None:
    await store.enqueue(only("a"))
    await store.bring_dead("a")
    await store.enqueue(only("b"))
    amended = await store.amend(Change(kind="replay"), "a")
    assert (amended.changed, amended.skipped) == ((), (("a", "dead"),))
    await store.cancel("b")
    assert (await store.amend(Change(kind="replay"), "a")).changed == ("a",)
    assert (await store.enqueue(only("c")))[0].job_id == "a"


async def test_a_key_may_be_kept_over_the_end(store: Store) -> None:
    """`while_` may name ended statuses too: then the key is free when the job is gone."""
    over_the_end: tuple[Status, ...] = (*BEFORE_START, "active", "completed")
    await store.enqueue(job("a", unique=Unique("u", over_the_end)))
    await store.run()
    assert await store.enqueue(only("b")) == (Enqueued("a", created=False, status="completed"),)
    assert await store.enqueue(only("c", "replace")) == (Enqueued("a", created=False, status="completed"),)
    await store.amend(Change(kind="delete"), "a")
    assert (await store.enqueue(only("d")))[0].created


# ── idempotency ───────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_the_first_enqueue_of_an_idempotency_key_wins(store: Store) -> None:
    await store.enqueue(first("a"))
    assert await store.enqueue(first("b")) == (Enqueued("a", created=False, status="pending"),)
    assert await store.status("b") is None


async def test_an_idempotency_key_with_other_content_is_a_conflict(store: Store) -> None:
    await store.enqueue(first("a"))
    with pytest.raises(KeyConflict) as caught:
        await store.enqueue(job("x"), first("b", digest=b"other"))
    assert (caught.value.existing_job_id, caught.value.key) == ("a", "i")
    assert await store.statuses("x", "b") == [None, None]


async def test_an_idempotency_key_counts_after_its_job_ended_and_after_it_is_gone(store: Store) -> None:
    await store.enqueue(first("a"))
    await store.run()
    assert await store.enqueue(first("b")) == (Enqueued("a", created=False, status="completed"),)
    await store.amend(Change(kind="delete"), "a")
    assert await store.enqueue(first("c")) == (Enqueued("a", created=False, status=None),)
    with pytest.raises(KeyConflict):
        await store.enqueue(first("d", digest=b"other"))


async def test_an_idempotency_key_is_free_after_its_window(store: Store) -> None:
    await store.enqueue(first("a", 60_000))
    await store.advance(59_999)
    assert not (await store.enqueue(first("b")))[0].created
    await store.advance(1)
    assert (await store.enqueue(first("c", digest=b"other")))[0] == Enqueued("c", created=True, status="pending")
    assert (await store.enqueue(first("d", digest=b"other")))[0].job_id == "c"


async def test_a_repeated_enqueue_does_not_stretch_the_window(store: Store) -> None:
    await store.enqueue(first("a", 60_000))
    await store.advance(30_000)
    await store.enqueue(first("b", 60_000))
    await store.advance(30_000)
    assert (await store.enqueue(first("c")))[0].created


async def test_a_clock_that_goes_back_does_not_stretch_the_window(store: Store) -> None:
    await store.enqueue(first("a", 60_000))
    await store.advance(-3_600_000)
    await store.advance(60_001)
    assert (await store.enqueue(first("b")))[0].created


async def test_the_id_is_looked_at_before_the_idempotency_key(store: Store) -> None:
    await store.enqueue(first("a"), job("b"))
    assert (await store.enqueue(first("b")))[0].job_id == "b"


async def test_the_idempotency_key_is_looked_at_before_the_unique_key(store: Store) -> None:
    await store.enqueue(first("a"), only("b"))
    both = job("c", idempotency=Idempotency("i"), unique=Unique("u", on_conflict="reject"))
    assert (await store.enqueue(both))[0].job_id == "a"


async def test_a_job_found_by_its_unique_key_leaves_no_idempotency_key(store: Store) -> None:
    await store.enqueue(only("a"))
    both = job("b", idempotency=Idempotency("i"), unique=Unique("u"))
    assert (await store.enqueue(both))[0].job_id == "a"
    await store.run()
    assert (await store.enqueue(job("c", idempotency=Idempotency("i"), digest=b"other")))[0].created


async def test_unique_and_idempotency_keys_are_told_apart(store: Store) -> None:
    await store.enqueue(only("a", key="k"))
    assert (await store.enqueue(first("b", key="k")))[0].created
    assert (await store.enqueue(only("c", key="K")))[0].created


async def test_two_of_an_idempotency_key_in_one_batch_are_one_job(store: Store) -> None:
    replies = await store.enqueue(first("a"), first("b"), job("c"))
    assert [(reply.job_id, reply.created) for reply in replies] == [("a", True), ("a", False), ("c", True)]
    with pytest.raises(KeyConflict):
        await store.enqueue(first("d", key="j"), first("e", key="j", digest=b"other"))
    assert await store.statuses("d", "e") == [None, None]


# ── who has them ──────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_holders_of_keys_are_told_in_the_order_asked_for(store: Store) -> None:
    await store.enqueue(
        only("a"), only("b", key="v"), first("c", digest=b"see"), first("d", 10, key="short", digest=b"d")
    )
    found = await store.backend.holders(("v", "free", "u", "v"), ("i", "u", "short"))
    assert found.unique == ("b", None, "a", "b")
    assert found.idempotency == (("c", b"see"), None, ("d", b"d"))
    await store.advance(10)
    await store.cancel("b")
    found = await store.backend.holders(("v",), ("short",))
    assert (found.unique, found.idempotency) == ((None,), (None,))
    found = await store.backend.holders((), ())
    assert (found.unique, found.idempotency) == ((), ())


async def test_a_window_is_told_when_its_job_is_gone(store: Store) -> None:
    await store.enqueue(first("a", digest=b"d"))
    await store.run()
    await store.amend(Change(kind="delete"), "a")
    assert (await store.backend.holders((), ("i",))).idempotency == (("a", b"d"),)


async def test_many_keys_can_be_asked_for_at_once(store: Store) -> None:
    await store.enqueue(only("a", key="u-7"), first("b", key="i-9"))
    keys = [f"u-{number}" for number in range(PAGE_MAX)], [f"i-{number}" for number in range(PAGE_MAX)]
    found = await store.backend.holders(*keys)
    assert [key for key, holder in zip(keys[0], found.unique, strict=True) if holder] == ["u-7"]
    assert [key for key, holder in zip(keys[1], found.idempotency, strict=True) if holder] == ["i-9"]
    for too_many in (([*keys[0], "u"], ()), ((), [*keys[1], "i"])):
        with pytest.raises(TooLarge):
            await store.backend.holders(*too_many)
