"""Tenants on every store: their limits hold over processes, and whoever changes a tier at the same time as others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from psyqueue import PsyQueue, QueueFull, RateLimitError
from psyqueue.backend import Op, Session
from psyqueue.backend.compose import dequeue
from psyqueue.ids import new_token
from psyqueue.plugins import Tenancy, Tier

TIERS = {
    "free": Tier(active_max=2, pending_max=50, enqueues_per_minute=60),
    "pro": Tier(weight=4, active_max=5),
    "open": Tier(weight=1),
}
SHARED = ["sqlite", "redis", "postgres"]


class Held:
    """A plugin that lets limits be written only once `may_write` is set, and says when somebody wants to."""

    name = "held"

    def __init__(self) -> None:
        self.wants, self.may_write = asyncio.Event(), asyncio.Event()
        self.may_write.set()

    def init(self, kernel: Any) -> None:
        kernel.wrap_backend(lambda inner: _Holding(inner, self))


class _Holding:
    def __init__(self, inner: Any, held: Held) -> None:
        self._inner, self._held = inner, held

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._inner, verb)

    async def put_limits(self, *given: Any, **named: Any) -> None:
        self._held.wants.set()
        await self._held.may_write.wait()
        await self._inner.put_limits(*given, **named)


class Process:
    """What stands for one: a queue of its own on the store."""

    def __init__(self, q: PsyQueue, tiers: dict[str, Tier] | None = None, default: str = "free") -> None:
        self.tenancy, self.held = Tenancy(tiers or TIERS, default=default), Held()
        self.q = q.use(self.tenancy).use(self.held)
        self.ran: list[str] = []
        q.handle("work", self._work, queue="w")

    async def _work(self, tenant: str) -> None:
        self.ran.append(tenant)

    async def enqueue(self, tenant: str, count: int = 1, queue: str = "w") -> None:
        items = [{"name": "work", "payload": {"tenant": tenant}} for _ in range(count)]
        await self.q.enqueue_bulk(items, tenant=tenant, queue=queue)

    async def active_max(self, tenant: str, queue: str = "w") -> int | None:
        return (await self.q.limits(queue, tenant)).active_max

    async def dequeued(self, count: int) -> Counter[str]:
        """As a worker of this process would get them, by lane."""
        backend, session_id = self.q.get_exposed("backend"), new_token()
        session = Session(id=session_id, worker=session_id, queues=("w",), lease_ms=60_000)
        await backend.open_session(Op(session_id, 1, 1), session)
        return Counter(each.lane for each in await dequeue(backend, Op(session_id, 1, 2), session_id, "w", count=count))

    def forget(self) -> None:
        """As after half a minute."""
        assert self.tenancy._porter is not None
        self.tenancy._porter._known.clear()


@pytest.fixture
async def process(make: Callable[..., PsyQueue]) -> AsyncIterator[Process]:
    process = Process(make(test_clock=True))
    async with process.q:
        yield process


@pytest.fixture
async def processes(make: Callable[..., PsyQueue]) -> AsyncIterator[list[Process]]:
    made = [Process(make(test_clock=True)) for _ in range(3)]
    async with AsyncExitStack() as stack:
        for process in made:
            await stack.enter_async_context(process.q)
        yield made


# ── what holds ────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_limits_are_in_the_store_before_the_first_job_is(process):
    with pytest.raises(QueueFull) as caught:
        await process.enqueue("acme", 51)
    assert caught.value.lane == "acme"
    assert len(await process.q.jobs(queue="w")) == 0


async def test_tenants_get_starts_by_the_weight_of_their_tier(process):
    """One of weight 4 beside two of weight 1, all with more to do than is run."""
    await process.tenancy.assign("big", "pro")
    for tenant in ("one", "two", "big"):
        await process.enqueue(tenant, 20 if tenant == "big" else 15)
    for _ in range(24):
        await process.q.process_next("w")
    counts = Counter(process.ran)
    assert abs(counts["big"] - 16) <= 1
    assert abs(counts["one"] - 4) <= 1
    assert abs(counts["two"] - 4) <= 1


async def test_another_tier_holds_at_once_in_all_queues(process):
    for queue in ("w", "x", "y"):
        await process.enqueue("acme", queue=queue)
        await process.enqueue("bob", queue=queue)
    await process.tenancy.assign("acme", "pro")
    assert [await process.active_max("acme", queue) for queue in ("w", "x", "y")] == [5, 5, 5]
    assert [await process.active_max("bob", queue) for queue in ("w", "x", "y")] == [2, 2, 2]
    await process.tenancy.assign("acme", "open")
    assert (await process.q.limits("w", "acme")).weight == 1
    assert [await process.active_max("acme", queue) for queue in ("w", "x", "y")] == [None, None, None]
    await process.tenancy.unassign("acme")
    assert [await process.active_max("acme", queue) for queue in ("w", "x", "y")] == [2, 2, 2]


async def test_a_bulk_call_of_many_tenants_gives_all_their_lanes_limits(process):
    items = [{"name": "work", "payload": {"tenant": "t"}, "options": {"tenant": f"t{n}"}} for n in range(620)]
    await process.q.enqueue_bulk(items)
    lanes = {(await process.active_max(f"t{number}")) for number in range(0, 620, 31)}
    assert lanes == {2}
    await process.q.enqueue_bulk(items)


async def test_a_new_release_changes_the_lanes_that_are_there(process):
    await process.enqueue("acme")
    assert process.tenancy._porter is not None
    roster = await process.tenancy._porter.roster()
    await roster.declare({"free": Tier(active_max=3)}, "free")
    await roster.tell_lanes()
    assert await process.active_max("acme") == 3


# ── over processes ────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("store", SHARED, indirect=True)
async def test_so_many_jobs_of_a_tenant_run_at_once_in_all_processes_together(processes):
    one, two, three = processes
    await one.enqueue("acme", 20)
    await two.enqueue("bob", 20)
    counts = await one.dequeued(3) + await two.dequeued(20) + await three.dequeued(20)
    assert counts == {"acme": 2, "bob": 2}
    await three.tenancy.assign("bob", "pro")
    assert await one.dequeued(20) == {"bob": 3}


@pytest.mark.parametrize("store", SHARED, indirect=True)
async def test_a_tenant_enqueues_so_many_a_minute_in_all_processes_together(processes):
    one, two, three = processes
    for number in range(60):
        await processes[number % 3].enqueue("acme", queue=f"q{number % 2}")
    for process in processes:
        with pytest.raises(RateLimitError) as caught:
            await process.enqueue("acme")
        assert caught.value.retry_after == 1
    await one.q.get_exposed("backend").advance_clock(1_000)
    await two.enqueue("acme")
    with pytest.raises(RateLimitError):
        await three.enqueue("acme")
    assert len(await one.q.jobs(tenant="acme", limit=100)) == 61


@pytest.mark.parametrize("store", SHARED, indirect=True)
async def test_of_a_crowd_no_more_get_in_than_the_tier_allows(processes):
    ends = await asyncio.gather(*(each.enqueue("acme") for each in processes * 30), return_exceptions=True)
    assert Counter(type(end) for end in ends) == {type(None): 50, QueueFull: 10, RateLimitError: 30}


# ── at the same time ──────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("store", SHARED, indirect=True)
async def test_who_writes_what_is_no_longer_true_mends_it(processes):
    """A process has read the old tier; before it writes, another one gives the tenant a new one, and finds no lane."""
    one, two, _ = processes
    await one.tenancy.of("acme")
    one.held.wants.clear()
    one.held.may_write.clear()
    enqueued = asyncio.ensure_future(one.enqueue("acme"))
    await asyncio.wait_for(one.held.wants.wait(), 60)
    await two.tenancy.assign("acme", "pro")
    assert await two.active_max("acme") is None
    one.held.may_write.set()
    await enqueued
    assert await two.active_max("acme") == 5


@pytest.mark.parametrize("store", SHARED, indirect=True)
async def test_two_who_assign_at_once_leave_one_tier_in_tenant_and_lanes(processes):
    one, two, three = processes
    for queue in ("w", "x"):
        await three.enqueue("acme", queue=queue)
    one.held.wants.clear()
    one.held.may_write.clear()
    first = asyncio.ensure_future(one.tenancy.assign("acme", "pro"))
    await asyncio.wait_for(one.held.wants.wait(), 60)
    await two.tenancy.assign("acme", "open")
    one.held.may_write.set()
    await first
    assert (await three.tenancy.of("acme")).tier == "open"
    assert [await three.active_max("acme", queue) for queue in ("w", "x")] == [None, None]


@pytest.mark.parametrize("store", SHARED, indirect=True)
async def test_who_dies_before_it_could_mend_is_mended_by_the_next_look(processes):
    one, two, three = processes
    await two.tenancy.assign("acme", "pro")
    assert one.tenancy._porter is not None
    roster = await one.tenancy._porter.roster()
    await roster._put_limits({("w", "acme"): TIERS["free"]})
    assert await three.active_max("acme") == 2
    await three.enqueue("acme")
    assert await three.active_max("acme") == 5


@pytest.mark.parametrize("store", SHARED, indirect=True)
async def test_while_others_enqueue_all_lanes_get_the_tier_that_was_given_last(processes):
    """New queues come up in all processes, while the tenant is given one tier after the other."""
    one, two, three = processes
    queues = [f"q{number}" for number in range(12)]

    async def produce(process: Process) -> None:
        for queue in queues:
            process.forget()
            await process.enqueue("acme", queue=queue)

    async def change() -> None:
        for tier in ("pro", "open", "free", "pro", "open", "pro"):
            await three.tenancy.assign("acme", tier)

    await asyncio.gather(produce(one), produce(two), change())
    assert {await one.active_max("acme", queue) for queue in queues} == {5}


@pytest.mark.parametrize("store", SHARED, indirect=True)
async def test_what_was_remembered_elsewhere_holds_for_half_a_minute_at_most(processes):
    one, two, _ = processes
    await one.enqueue("acme")
    await two.tenancy.assign("acme", "open")
    assert one.tenancy._porter is not None
    assert set(one.tenancy._porter._known) == {("w", "acme")}
    one.forget()
    await one.enqueue("acme", 300)


@pytest.mark.parametrize("store", SHARED, indirect=True)
async def test_releases_side_by_side_do_not_write_against_each_other(make, processes):
    """Whoever started last has said what the tiers are."""
    one, *_ = processes
    await one.enqueue("acme")
    late = Process(make(test_clock=True), {**TIERS, "free": Tier(active_max=7)})
    async with late.q:
        await late.enqueue("acme")
        assert await late.active_max("acme") == 7
        for process in (one, late, one):
            process.held.wants.clear()
            process.forget()
            await process.enqueue("acme")
            assert not process.held.wants.is_set()
        assert await one.active_max("acme") == 7
