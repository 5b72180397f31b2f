"""Retention: prune deletes what no rule keeps, and nothing else."""

from __future__ import annotations

import pytest

from psyqueue.backend import Change, Dependency, Effects, Idempotency, Op, Record, Unique
from psyqueue.errors import InvalidState
from psyqueue.job import Status
from psyqueue.testing.conformance.handle import DAY_MS, PAGE_MAX, Store, ack, add, job, put


async def prune(store: Store, limit: int = PAGE_MAX) -> list[str]:
    """Until nothing more is to be deleted."""
    gone: list[str] = []
    for _ in range(100):
        done = await store.backend.prune(limit)
        assert len(done.ids) <= limit
        gone += done.ids
        if not done.more:
            return gone
    raise AssertionError("prune always says that there is more")


async def complete(store: Store, *ids: str) -> None:
    await store.enqueue(*(job(each) for each in ids))
    for each in ids:
        assert await store.run() == each


async def test_by_default_ended_jobs_stay_a_day_and_dead_ones_90_days(store: Store) -> None:
    await complete(store, "completed")
    await store.enqueue(job("cancelled"), job("dead"))
    await store.cancel("cancelled")
    await store.bring_dead("dead")
    await store.advance(DAY_MS - 1)
    assert await prune(store) == []
    await store.advance(2)
    assert sorted(await prune(store)) == ["cancelled", "completed"]
    await store.advance(89 * DAY_MS - 2)
    assert await prune(store) == []
    await store.advance(2)
    assert await prune(store) == ["dead"]
    assert await store.statuses("completed", "cancelled", "dead") == [None] * 3


async def test_live_jobs_are_never_pruned(store: Store) -> None:
    await store.limit(retain_ended=(0, 0), retain_dead=(0, 0))
    await store.enqueue(job("p"), job("s", delay_ms=10**12), job("w", needs=(Dependency("s"),)), job("a"))
    await store.dequeue(count=1)
    await store.advance(1_000 * DAY_MS)
    assert await prune(store) == []
    assert await store.statuses("p", "s", "w", "a") == ["active", "scheduled", "waiting", "pending"]


async def test_the_newest_ended_jobs_are_kept_by_count(store: Store) -> None:
    await store.limit(retain_ended=(DAY_MS, 2), retain_dead=(DAY_MS, 1))
    for each in "abc":
        await complete(store, each)
        await store.advance(1)
        await store.add(f"dead-{each}")
        await store.bring_dead(f"dead-{each}")
        await store.advance(1)
    assert sorted(await prune(store)) == ["a", "dead-a", "dead-b"]


async def test_retention_is_by_the_time_of_the_end(store: Store) -> None:
    await store.limit(retain_ended=(1_000, 100))
    await store.enqueue(job("a"), job("b"))
    await store.run()
    await store.advance(600)
    await store.run()
    await store.advance(600)
    assert await prune(store) == ["a"]


async def test_none_keeps_all(store: Store) -> None:
    await store.limit(retain_ended=None, retain_dead=None)
    await complete(store, "a")
    await store.add("d")
    await store.bring_dead("d")
    await store.advance(10_000 * DAY_MS)
    assert await prune(store) == []


async def test_queues_are_kept_by_their_own_rules(store: Store) -> None:
    await store.limit("short", retain_ended=(0, 100))
    await store.enqueue(job("a", "short"), job("b", "long"))
    await store.run("short")
    await store.run("long")
    await store.advance(1)
    assert await prune(store) == ["a"]


async def test_pruning_is_bounded(store: Store) -> None:
    await store.limit(retain_ended=(0, 0))
    ids = await store.fill(7)
    await store.settle(*(ack(each) for each in await store.dequeue(count=7)))
    await store.advance(1)
    first = await store.backend.prune(3)
    assert (len(first.ids), first.more) == (3, True)
    assert sorted([*first.ids, *(await prune(store, 3))]) == ids


async def test_a_parent_stays_while_a_live_child_needs_it(store: Store) -> None:
    await store.limit(retain_ended=(0, 0))
    await store.enqueue(job("p"), job("r", "other"), job("c", "child", needs=(Dependency("p"), Dependency("r"))))
    await store.run()
    await store.advance(1)
    assert await prune(store) == []
    await store.run("other")
    await store.run("child")
    await store.advance(1)
    assert "p" in await prune(store)


async def test_a_pruned_id_can_be_used_again(store: Store) -> None:
    await store.limit(retain_ended=(0, 0))
    await complete(store, "a")
    await store.advance(1)
    await prune(store)
    assert (await store.add("a")).created
    assert (await store.view("a")).attempt == 0
    assert await store.run() == "a"


async def test_held_jobs_are_not_pruned(store: Store) -> None:
    await store.limit(retain_ended=(0, 0))
    await complete(store, "a")
    await store.amend(Change(kind="hold"), "a")
    await store.advance(1)
    assert await prune(store) == []


async def test_a_key_kept_over_the_end_is_freed_with_its_job(store: Store) -> None:
    await store.limit(retain_ended=(0, 0))
    over_the_end: tuple[Status, ...] = ("waiting", "scheduled", "pending", "active", "completed")
    await store.enqueue(job("a", unique=Unique("u", over_the_end)))
    await store.run()
    await store.advance(1)
    await prune(store)
    assert (await store.enqueue(job("b", unique=Unique("u"))))[0].created


async def test_idempotency_keys_outlive_their_job_until_their_window_ends(store: Store) -> None:
    await store.limit(retain_ended=(0, 0))
    await store.enqueue(job("a", idempotency=Idempotency("i", 60_000)))
    await store.run()
    await store.advance(1)
    await prune(store)
    assert (await store.enqueue(job("b", idempotency=Idempotency("i", 60_000))))[0].job_id == "a"
    await store.advance(60_000)
    await prune(store)
    assert (await store.enqueue(job("c", idempotency=Idempotency("i", 60_000))))[0].created


async def test_state_and_records_go_when_their_time_is_over(store: Store) -> None:
    records = (Record("r", b"1", ttl_ms=1_000), Record("r", b"2"))
    writes = (put("short", ttl_ms=1_000), put("long"))
    await store.backend.write_state(store.op(), Effects(writes=writes, records=records))
    await store.advance(1_001)
    await prune(store)
    assert await store.read("short") is None
    assert await store.read("long") is not None
    stored = await store.backend.read_records("r", 0, 10)
    assert [(each.seq, each.body) for each in stored] == [(2, b"2")]
    await store.backend.write_state(store.op(), Effects(records=(Record("r", b"3"),)))
    assert [each.seq for each in await store.backend.read_records("r", 0, 10)] == [2, 3]


async def test_an_op_is_remembered_for_a_while_and_forgotten_at_last(store: Store) -> None:
    op = Op("once", 1, 1)
    await store.backend.write_state(op, Effects(writes=(add("n"),)))
    await store.advance(3_600_000)
    await prune(store)
    assert await store.backend.write_state(op, Effects(writes=(add("n"),))) == (1,)
    await store.advance(400 * DAY_MS)
    await prune(store)
    assert await store.backend.write_state(op, Effects(writes=(add("n"),))) == (2,)


async def test_closed_sessions_are_forgotten_at_last_and_open_ones_never(store: Store) -> None:
    await store.open_session("closed")
    await store.open_session("open")
    await store.close_session("closed")
    await prune(store)
    with pytest.raises(InvalidState):
        await store.open_session("closed")
    await store.advance(400 * DAY_MS)
    await prune(store)
    assert [info.session.id for info in (await store.backend.sessions(None, 10))[0]] == ["open"]
    assert (await store.renew("open")).open
