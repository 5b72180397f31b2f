"""Bounds of the scripts: no call looks at more than a share of what lies in its way, and what is behind it is found."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from psyqueue.backend import (
    UNTIL_RESUMED,
    Ack,
    Change,
    Dependency,
    Fetch,
    Filter,
    Gate,
    Limits,
    NewJob,
    Op,
    Session,
    SettleReply,
    Unique,
)
from psyqueue.backends._redis import RedisBackend, RedisOptions
from support.servers import Server

LOOKED_MAX = 1_000
"""Entries or lanes in vain, a fetch."""


class Store:
    def __init__(self, server: Server, namespace: str) -> None:
        options = RedisOptions(url=server.url, key_prefix=f"{namespace}:", test_clock=True)
        self.backend = RedisBackend(options)
        self.base = options.base
        self.client = redis.Redis.from_url(server.url)
        self._turns = itertools.count(1)

    def op(self) -> Op:
        return Op("c", 0, next(self._turns))

    async def enqueue(self, *jobs: NewJob) -> None:
        for batch in _batches(jobs, 400):
            await self.backend.enqueue(self.op(), batch)

    async def cancel(self, ids: list[str]) -> None:
        for batch in _batches(ids, 500):
            await self.backend.amend(self.op(), Filter(ids=tuple(batch)), Change(kind="cancel"), None, 500)

    async def fetch(self, *queues: str, count: int = 10) -> SettleReply:
        fetch = Fetch(queues=queues, count=count, token_seed="seed")
        return await self.backend.settle(self.op(), "s", (), fetch)

    def commands(self) -> int:
        """How many commands the server ran so far, those of scripts too."""
        stats: Any = self.client.info("commandstats")
        return sum(each["calls"] for each in stats.values())


def _batches(items: Any, size: int) -> Any:
    return [items[at : at + size] for at in range(0, len(items), size)]


def job(job_id: str, queue: str = "q", **fields: Any) -> NewJob:
    return NewJob(id=job_id, queue=queue, name="work", payload=b"1", **fields)


@contextlib.asynccontextmanager
async def opened(server: Server, namespace: str) -> AsyncIterator[Store]:
    store = Store(server, namespace)
    await store.backend.connect()
    try:
        await store.backend.open_session(store.op(), Session(id="s", worker="w", queues=("q",), lease_ms=60_000))
        yield store
    finally:
        await store.backend.disconnect()
        store.client.close()


@pytest.fixture
async def store(redis_server, namespace):
    async with opened(redis_server, namespace) as made:
        yield made


async def test_a_job_may_be_named_like_its_queue(store):
    """What a job needs and the signal of a queue once had one key."""
    await store.enqueue(job("parent"))
    await store.enqueue(job("q", needs=(Dependency("parent"),)))
    (view,) = await store.backend.get(("q",))
    assert view is not None
    assert view.blocked_by == ("needs:parent",)
    assert await store.backend.check(None, 500) == ((), None)


async def test_lanes_that_may_not_start_hide_no_other(store):
    names = [f"lane{number:04}" for number in range(2 * LOOKED_MAX)]
    for some in _batches(names, 400):
        limits = [Limits(queue="q", lane=name, paused_until_ms=UNTIL_RESUMED) for name in some]
        await store.backend.put_limits(store.op(), limits)
    await store.enqueue(*(job(name, lane=name) for name in names), job("free", lane="zone"))
    replies = [await store.fetch("q")]
    while replies[-1].more and not replies[-1].deliveries:
        replies.append(await store.fetch("q"))
    assert [each.id for each in replies[-1].deliveries] == ["free"]
    assert len(replies) == 3
    replies = [await store.fetch("q") for _ in range(3)]
    assert [reply.more for reply in replies] == [True, True, False], "then the worker may sleep"


async def test_a_fetch_passes_over_a_bounded_number_of_stale_entries(store):
    ids = [f"j{number}" for number in range(4 * LOOKED_MAX)]
    kept = ids[LOOKED_MAX - 10 :: LOOKED_MAX]
    await store.enqueue(*map(job, ids))
    await store.cancel([each for each in ids if each not in kept])
    found, costs, more = [], [], True
    while more:
        before = store.commands()
        reply = await store.fetch("q")
        costs.append(store.commands() - before)
        found += [each.id for each in reply.deliveries]
        more = reply.more
    assert found == kept
    assert max(costs) < 2 * LOOKED_MAX
    assert len(costs) <= 6


async def test_stale_entries_go_when_nothing_is_pending(store):
    await store.enqueue(*(job(f"j{number}") for number in range(10)), job("in lane", lane="x"))
    await store.cancel([*(f"j{number}" for number in range(10)), "in lane"])
    assert not list(store.client.scan_iter(f"{store.base}p*", count=1_000))


async def test_signals_of_queues_that_nobody_waits_for_go_by_themselves(store):
    await store.enqueue(job("j"))
    assert store.client.pttl(f"{store.base}w:q") > 0


async def test_idle_lanes_of_all_queues_are_forgotten(store):
    queues = [f"q{number:03}" for number in range(250)]
    for queue in queues:
        await store.enqueue(job(f"{queue}a", queue, lane="a"), job(f"{queue}stays", queue))
        await store.cancel([f"{queue}a"])
    while (await store.backend.prune(500)).more:
        pass
    assert not list(store.client.scan_iter(f"{store.base}lt:*", count=1_000))


async def test_a_fetch_reads_hardly_more_bodies_than_it_gives(store):
    body = b'"' + b"x" * (1 << 20) + b'"'
    for number in range(60):
        await store.enqueue(NewJob(id=f"j{number}", queue="q", name="work", payload=body))
    store.client.config_resetstat()
    memory: Any = store.client.info("memory")
    reply = await store.fetch("q", count=60)
    after: Any = store.client.info("memory")
    assert len(reply.deliveries) == 7
    assert after["used_memory_peak"] - memory["used_memory"] < 30 << 20


UNIQUE = Unique("key", ("waiting", "scheduled", "pending"), "replace")


@pytest.mark.parametrize(
    "lost",
    [
        job("lost", expires_in_ms=10),
        job("lost", delay_ms=10),
        job("lost", needs=(Dependency("first"),)),
        job("lost", gate=Gate("gate", 1)),
        job("lost", unique=UNIQUE),
        job("lost", priority=-1),
    ],
    ids=["expiring", "scheduled", "child", "in line", "unique", "pending"],
)
@pytest.mark.parametrize("is_held", [False, True])
async def test_a_job_that_is_gone_without_a_word_stops_nothing(store, lost, is_held):
    """A full server that may throw keys away (allow_eviction), or somebody with redis-cli."""
    await store.enqueue(job("first", gate=Gate("gate", 1)), lost, job("next", gate=Gate("gate", 1)))
    backend = store.backend
    if is_held:
        await backend.amend(store.op(), Filter(ids=("lost",)), Change(kind="hold"), None, 1)
    store.client.delete(f"{store.base}j:lost")
    await store.enqueue(job("unique", unique=UNIQUE))
    await backend.advance_clock(1_000)
    first = (await store.fetch("q")).deliveries
    assert {each.id for each in first} == {"first", "unique"}
    acks = [Ack(job_id=each.id, completion_token=each.completion_token, result=b"null") for each in first]
    fetch = Fetch(queues=("q",), count=10, token_seed="other")
    reply = await backend.settle(store.op(), "s", acks, fetch)
    assert [each.id for each in reply.deliveries] == ["next"]
    assert not (await backend.promote(("q",), 10)).more
    (found,), _ = await backend.queues("", None, 10)
    assert found.queue == "q"
    await backend.close_session(store.op(), "s")
    await backend.advance_clock(100 * 86_400_000)
    assert "first" in (await backend.prune(100)).ids


async def _walked(store: Store, limit: int, cursor: str | None = None) -> list[str]:
    found: list[str] = []
    while True:
        page = await store.backend.list_jobs(Filter(), cursor, limit)
        found += [view.job.id for view in page.jobs]
        cursor = page.cursor
        if cursor is None:
            return found


async def test_a_page_looks_at_the_lanes_that_it_needs_alone(store):
    names = [f"lane{number:04}" for number in range(1_500)]
    await store.enqueue(*(job(name, lane=name) for name in names), job("default"), job("urgent", lane="a", priority=1))
    store.client.config_resetstat()
    first = await store.backend.list_jobs(Filter(statuses=("pending",)), None, 10)
    assert [view.job.id for view in first.jobs] == ["default", "urgent", *names[:8]]
    stats: Any = store.client.info("commandstats")
    assert "cmdstat_hkeys" not in stats, "all lanes of the queue were read"
    assert store.commands() < 150
    await store.cancel([names[7], names[8]])  # the lane where the cursor stands, and the next one
    rest = await _walked(store, 500, first.cursor)
    assert rest == [*names[9:], names[7], names[8]], "ended ones come last"


async def test_a_page_passes_over_a_bounded_number_of_lanes_without_what_is_wanted(store):
    names = [f"lane{number:04}" for number in range(1_500)]
    await store.enqueue(*(job(name, lane=name, delay_ms=1_000) for name in names), job("last", lane="zone"))
    store.client.config_resetstat()
    page = await store.backend.list_jobs(Filter(statuses=("pending",)), None, 10)
    assert (page.jobs, page.cursor is not None) == ((), True)
    assert store.commands() < 5 * LOOKED_MAX
    page = await store.backend.list_jobs(Filter(statuses=("pending",)), page.cursor, 10)
    while page.cursor is not None and not page.jobs:
        page = await store.backend.list_jobs(Filter(statuses=("pending",)), page.cursor, 10)
    assert [view.job.id for view in page.jobs] == ["last"]


@pytest.mark.parametrize("kind", ["cancel", "hold"])
async def test_a_change_of_all_jobs_meets_those_of_all_lanes_once(store, kind):
    """The walk goes backward: what it changed lies behind it."""
    ids = [f"{number}{lane}" for number in range(3) for lane in ("", "a", "b", "z")]
    await store.enqueue(*(job(each, lane=each[1:], priority=int(each[0]) % 2) for each in ids))
    changed, cursor = [], None
    while True:
        done = await store.backend.amend(store.op(), Filter(), Change(kind=kind), cursor, 2)
        changed += done.changed
        cursor = done.cursor
        if cursor is None:
            break
    assert sorted(changed) == sorted(ids)


async def test_the_end_of_a_parent_looks_at_a_bounded_number_of_held_children(store):
    """A move holds them; those that nobody holds are found behind them."""
    await store.enqueue(job("parent"))
    held = [f"held{number:04}" for number in range(3 * LOOKED_MAX)]
    needs = (Dependency("parent", on=("cancelled",)),)
    await store.enqueue(*(job(each, needs=needs) for each in held))
    for batch in _batches(held, 500):
        await store.backend.amend(store.op(), Filter(ids=tuple(batch)), Change(kind="hold"), None, 500)
    await store.enqueue(job("free", needs=needs))
    before = store.commands()
    await store.cancel(["parent"])
    costs = [store.commands() - before]
    while costs[-1] > 0:
        before = store.commands()
        more = (await store.backend.promote(("q",), 500)).more
        costs.append(store.commands() - before if more else 0)
    assert max(costs) < 2 * LOOKED_MAX
    assert [each.id for each in (await store.fetch("q")).deliveries] == ["free"]
