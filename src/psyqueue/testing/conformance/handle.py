"""A test's handle on a store: short calls over the seam, with ops and sessions kept by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from psyqueue.backend import (
    NO_EFFECTS,
    Ack,
    Amended,
    AnyOutcome,
    BackendAdapter,
    Cancelled,
    Change,
    Dead,
    Delivery,
    Done,
    Effects,
    Enqueued,
    Fetch,
    Filter,
    Item,
    JobView,
    Keep,
    Limits,
    NewJob,
    Op,
    QueueInfo,
    Release,
    Renewal,
    Retry,
    Session,
    Settled,
    SettleReply,
    Snooze,
    StateWrite,
)
from psyqueue.job import Status

LEASE_MS = 30_000
DAY_MS = 86_400_000
PAGE_MAX = 500
ERROR = b'{"type":"Boom"}'


class Transaction(Protocol):
    """A transaction of the caller's own, for `bind`."""

    connection: object

    async def commit(self) -> None: ...

    async def rollback(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendFactory:
    """What a backend gives to the suite.

    `fresh`: a connected client of a new, empty store with `capabilities.test_clock`. `beside`: the same while the one
    that `fresh` gave is still open; None: `fresh` can do that. The rest is None where the store cannot do it, and its
    tests then say so. `again`: another connected client of the same store, as another process
    would have it. `transaction`: opens a transaction on a connection that `bind` takes.
    """

    fresh: Callable[[], Awaitable[BackendAdapter]]
    beside: Callable[[], Awaitable[BackendAdapter]] | None = None
    again: Callable[[BackendAdapter], Awaitable[BackendAdapter]] | None = None
    transaction: Callable[[BackendAdapter], AbstractAsyncContextManager[Transaction]] | None = None


def job(job_id: str, queue: str = "q", **fields: Any) -> NewJob:
    """A job with a plain payload; any field of `NewJob` can be given."""
    fields = {"name": "work", "payload": b'{"n":1}', "digest": b"same", **fields}
    return NewJob(id=job_id, queue=queue, **fields)


def put(key: str, value: bytes = b"1", expected: int | None = None, ttl_ms: int | None = None) -> StateWrite:
    return StateWrite(kind="put", key=key, value=value, expected=expected, ttl_ms=ttl_ms)


def add(key: str, number: int = 1) -> StateWrite:
    return StateWrite(kind="add", key=key, number=number)


def delete(key: str, expected: int | None = None) -> StateWrite:
    return StateWrite(kind="delete", key=key, expected=expected)


def take(key: str, number: int = 1, *, capacity: int, refill_per_minute: int = 0) -> StateWrite:
    return StateWrite(kind="take", key=key, number=number, capacity=capacity, refill_per_minute=refill_per_minute)


def token_seed(number: int) -> str:
    """128 bits as text, as a client would draw them; here the same in every run."""
    return f"{number:032x}"


class Store:
    """One client of one store. Sessions are opened when they are first needed."""

    def __init__(self, backend: BackendAdapter, client: str = "tester") -> None:
        self.backend = backend
        self.client = client
        self._turns: dict[int, int] = {}
        self._seeds = 0
        self._opened: set[str] = set()

    def op(self, channel: int = 0) -> Op:
        turn = self._turns[channel] = self._turns.get(channel, 0) + 1
        return Op(self.client, channel, turn)

    def fetch(self, *queues: str, count: int = 1, bytes_max: int = 8_388_608, counts: bool = False) -> Fetch:
        self._seeds += 1
        seed = f"{self.client}-{token_seed(self._seeds)}"
        return Fetch(queues=queues or ("q",), count=count, token_seed=seed, bytes_max=bytes_max, counts=counts)

    # ── in ────────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def enqueue(self, *jobs: NewJob, effects: Effects = NO_EFFECTS) -> tuple[Enqueued, ...]:
        return await self.backend.enqueue(self.op(), jobs, effects)

    async def add(self, job_id: str, queue: str = "q", **fields: Any) -> Enqueued:
        return (await self.enqueue(job(job_id, queue, **fields)))[0]

    async def fill(self, count: int, queue: str = "q", **fields: Any) -> list[str]:
        """`count` jobs named so that text order is the order of enqueue."""
        ids = [f"{queue}-{number:04}" for number in range(count)]
        for start in range(0, count, PAGE_MAX):
            await self.enqueue(*(job(each, queue, **fields) for each in ids[start : start + PAGE_MAX]))
        return ids

    # ── sessions ──────────────────────────────────────────────────────────────────────────────────────────────────────
    async def open_session(
        self, session_id: str = "s", *, lease_ms: int = LEASE_MS, queues: tuple[str, ...] = ("q",)
    ) -> Renewal:
        self._opened.add(session_id)
        session = Session(id=session_id, worker=f"worker of {session_id}", queues=queues, lease_ms=lease_ms)
        return await self.backend.open_session(self.op(), session)

    async def renew(self, session_id: str = "s") -> Renewal:
        """From a thread, as the lease thread does."""
        keeper = self.backend.keeper()
        try:
            return await asyncio.to_thread(keeper.renew, session_id)
        finally:
            await asyncio.to_thread(keeper.close)

    async def close_session(self, session_id: str = "s") -> Done:
        return await self.backend.close_session(self.op(), session_id)

    async def lose(self, lease_ms: int = LEASE_MS) -> Done:
        """Let every open session's lease end and take its jobs back; a reap just before keeps the grace rule out."""
        await self.backend.reap(PAGE_MAX)
        await self.advance(lease_ms + 1)
        return await self.backend.reap(PAGE_MAX)

    # ── work ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def settle(self, *outcomes: AnyOutcome, session: str = "s", fetch: Fetch | None = None) -> SettleReply:
        if session not in self._opened:
            await self.open_session(session)
        return await self.backend.settle(self.op(), session, outcomes, fetch)

    async def dequeue(self, *queues: str, count: int = 1, session: str = "s") -> tuple[Delivery, ...]:
        return (await self.settle(session=session, fetch=self.fetch(*queues, count=count))).deliveries

    async def dequeue_ids(self, *queues: str, count: int = PAGE_MAX, session: str = "s") -> list[str]:
        return [each.id for each in await self.dequeue(*queues, count=count, session=session)]

    async def dequeue_one(self, *queues: str, session: str = "s") -> Delivery:
        deliveries = await self.dequeue(*queues, session=session)
        assert len(deliveries) == 1, f"nothing to dequeue from {queues or ('q',)}"
        return deliveries[0]

    async def settle_one(self, outcome: AnyOutcome, session: str = "s") -> Settled:
        (settled,) = (await self.settle(outcome, session=session)).settled
        assert settled.job_id == outcome.job_id
        return settled

    async def ack(
        self, delivery: Delivery, result: bytes = b"null", *, effects: Effects = NO_EFFECTS, session: str = "s"
    ) -> Settled:
        return await self.settle_one(ack(delivery, result, effects), session)

    async def retry(self, delivery: Delivery, delay_ms: int = 0, error: bytes = ERROR, session: str = "s") -> Settled:
        return await self.settle_one(retry(delivery, delay_ms, error), session)

    async def kill(self, delivery: Delivery, reason: str = "fatal", session: str = "s") -> Settled:
        return await self.settle_one(dead(delivery, reason), session)

    async def run(self, *queues: str, session: str = "s") -> str:
        """Dequeue one job and ack it; its id."""
        delivery = await self.dequeue_one(*queues, session=session)
        assert (await self.ack(delivery, session=session)).verdict == "ok"
        return delivery.id

    async def bring_dead(self, job_id: str, reason: str = "fatal") -> None:
        """Dequeue exactly this job, the only pending one, and end it as dead."""
        delivery = await self.dequeue_one()
        assert delivery.id == job_id
        await self.kill(delivery, reason)

    # ── operating ─────────────────────────────────────────────────────────────────────────────────────────────────────
    async def amend(self, change: Change, *ids: str, effects: Effects = NO_EFFECTS) -> Amended:
        return await self.backend.amend(self.op(), Filter(ids=ids), change, None, PAGE_MAX, effects)

    async def cancel(self, *ids: str, reason: str = "") -> Amended:
        return await self.amend(Change(kind="cancel", reason=reason), *ids)

    async def limit(self, queue: str = "q", lane: str | None = None, **settings: Any) -> None:
        await self.backend.put_limits(self.op(), (Limits(queue=queue, lane=lane, **settings),))

    async def write(self, *writes: StateWrite) -> tuple[int, ...]:
        return await self.backend.write_state(self.op(), Effects(writes=writes))

    async def read(self, key: str) -> Item | None:
        return (await self.backend.read_state((key,)))[0]

    # ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────
    async def view(self, job_id: str) -> JobView:
        (found,) = await self.backend.get((job_id,))
        assert found is not None, f"job {job_id!r} is gone"
        return found

    async def status(self, job_id: str) -> Status | None:
        (found,) = await self.backend.get((job_id,))
        return found.status if found else None

    async def statuses(self, *ids: str) -> list[Status | None]:
        return [found.status if found else None for found in await self.backend.get(ids)]

    async def now_ms(self) -> int:
        return (await self.backend.info()).now_ms

    async def queue(self, name: str = "q") -> QueueInfo | None:
        infos, _ = await self.backend.queues(name, None, PAGE_MAX)
        return next((info for info in infos if info.queue == name), None)

    async def count(self, status: Status, queue: str = "q") -> int:
        info = await self.queue(queue)
        return info.counts.get(status, 0) if info else 0

    async def walk(self, where: Filter, limit: int = PAGE_MAX) -> list[str]:
        """The ids of every page of a listing."""
        ids: list[str] = []
        cursor: str | None = None
        while True:
            page = await self.backend.list_jobs(where, cursor, limit)
            assert len(page.jobs) <= limit
            ids += [found.job.id for found in page.jobs]
            cursor = page.cursor
            if cursor is None:
                return ids

    async def advance(self, by_ms: int) -> None:
        await self.backend.advance_clock(by_ms)

    async def broken(self) -> list[str]:
        """What `check` finds on all its pages."""
        found: list[str] = []
        cursor: str | None = None
        while True:
            problems, cursor = await self.backend.check(cursor, PAGE_MAX)
            found += problems
            if cursor is None:
                return found


def ack(delivery: Delivery, result: bytes = b"null", effects: Effects = NO_EFFECTS) -> Ack:
    return Ack(job_id=delivery.id, completion_token=delivery.completion_token, result=result, effects=effects)


def retry(delivery: Delivery, delay_ms: int = 0, error: bytes = ERROR) -> Retry:
    return Retry(job_id=delivery.id, completion_token=delivery.completion_token, error=error, delay_ms=delay_ms)


def dead(delivery: Delivery, reason: str = "fatal", error: bytes = ERROR) -> Dead:
    return Dead(job_id=delivery.id, completion_token=delivery.completion_token, error=error, reason=reason)


def snooze(delivery: Delivery, delay_ms: int, reason: str = "") -> Snooze:
    return Snooze(job_id=delivery.id, completion_token=delivery.completion_token, delay_ms=delay_ms, reason=reason)


def release(delivery: Delivery) -> Release:
    return Release(job_id=delivery.id, completion_token=delivery.completion_token)


def cancelled(delivery: Delivery, reason: str = "") -> Cancelled:
    return Cancelled(job_id=delivery.id, completion_token=delivery.completion_token, reason=reason)


def keep(delivery: Delivery, effects: Effects = NO_EFFECTS) -> Keep:
    return Keep(job_id=delivery.id, completion_token=delivery.completion_token, effects=effects)
