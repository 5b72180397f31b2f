"""Every verb that locks rows, from eight connections at once: nobody sees a deadlock, no job is lost or made twice."""

from __future__ import annotations

import asyncio
import itertools
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from backends.postgres.stores import opened
from psyqueue.backend import AnyOutcome, Change, Delivery, Dependency, Effects, Gate, NewJob, Unique
from psyqueue.errors import SessionLost, UnknownDependency
from psyqueue.job import Status
from psyqueue.testing.conformance.handle import (
    DAY_MS,
    LEASE_MS,
    PAGE_MAX,
    Store,
    ack,
    cancelled,
    dead,
    job,
    keep,
    release,
    retry,
    snooze,
)
from support.servers import Server

CLIENTS, CALLS = 8, 250
QUEUES = ("q", "r")
ENDED: tuple[Status, ...] = ("completed", "dead", "cancelled")


@dataclass(slots=True)
class Ledger:
    """What the replies said: jobs made, in their order too, and deleted."""

    made: set[str] = field(default_factory=set)
    pruned: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)

    def note(self, job_id: str, created: bool) -> None:
        if created:
            assert job_id not in self.made, f"{job_id} was made twice"
            self.made.add(job_id)
            self.known.append(job_id)


class Actor:
    """A client that does anything, in an order that its seed decides."""

    def __init__(self, store: Store, number: int, ledger: Ledger, seed: int) -> None:
        self.store = store
        self._ledger = ledger
        self._random = random.Random(seed)
        self._names = (f"job-{number}-{each}" for each in itertools.count())
        self._sessions = (f"s-{number}-{each}" for each in itertools.count())
        self._session = next(self._sessions)
        self._held: list[Delivery] = []

    def _job(self) -> NewJob:
        draw = self._random
        queue = draw.choice(QUEUES)
        match draw.randrange(6):
            case 0:
                key = f"key-{draw.randrange(5)}"
                unique = draw.choice((Unique(key), Unique(key, on_conflict="replace")))
                return job(next(self._names), queue, unique=unique)
            case 1:
                return job(next(self._names), queue, gate=Gate(f"gate-{draw.randrange(3)}", 2))
            case 2:
                parents = set(draw.choices(self._ledger.known[-30:] or [""], k=2)) - {""}
                return job(next(self._names), queue, needs=tuple(Dependency(each, ENDED) for each in parents))
            case 3:
                return job(next(self._names), queue, lane=f"lane-{draw.randrange(3)}")
            case 4:
                return job(next(self._names), queue, delay_ms=draw.randrange(2_000))
            case _:
                return job(next(self._names), queue, max_retries=1)

    async def enqueue(self) -> None:
        try:
            replies = await self.store.enqueue(*(self._job() for _ in range(4)))
        except UnknownDependency:
            return
        for each in replies:
            self._ledger.note(each.job_id, each.created)

    async def settle(self) -> None:
        """Settles all that is held, with follow-ups where chance says so, and fetches."""
        draw = self._random
        outcomes: list[AnyOutcome] = []
        for each in self._held:
            how = draw.choice((ack, ack, ack, retry, dead, release, cancelled, lambda d: snooze(d, 500), keep))
            if how is ack and draw.random() < 0.3:
                outcomes.append(ack(each, effects=Effects(jobs=(self._job(),))))
            else:
                outcomes.append(how(each))
        queues = draw.sample(QUEUES, 2)
        try:
            reply = await self.store.settle(
                *outcomes, session=self._session, fetch=self.store.fetch(*queues, count=draw.randrange(1, 8))
            )
        except SessionLost:
            self._session, self._held = next(self._sessions), []
            return
        for settled in reply.settled:
            assert settled.verdict in {"ok", "lost", "conflict"}, settled
            for follow_up in settled.effects:
                self._ledger.note(follow_up.job_id, follow_up.created)
        kept = {one.job_id for one in reply.settled if one.verdict != "lost" and one.status == "active"}
        self._held = [each for each in self._held if each.id in kept] + list(reply.deliveries)

    async def amend(self) -> None:
        ids = set(self._random.choices(self._ledger.known[-60:] or ["none"], k=5))
        await self.store.amend(Change(kind=self._random.choice(("cancel", "replay", "priority"))), *ids)

    async def maintain(self) -> None:
        backend = self.store.backend
        await backend.promote(QUEUES, PAGE_MAX)
        await backend.reap(PAGE_MAX)
        self._ledger.pruned += (await backend.prune(PAGE_MAX)).ids

    async def pass_time(self) -> None:
        """Seldom as much as a lease, and nobody renews: all sessions are lost then."""
        await self.store.advance(LEASE_MS + 1 if self._random.random() < 0.2 else 300)

    async def run(self) -> None:
        verbs = (self.enqueue, self.settle, self.amend, self.maintain, self.pass_time)
        for _ in range(CALLS):
            await self._random.choices(verbs, (4, 6, 3, 2, 0.5))[0]()

    async def finish(self) -> None:
        """Acks all that is left."""
        session = next(self._sessions)
        while True:
            reply = await self.store.settle(
                *(ack(each) for each in self._held),
                session=session,
                fetch=self.store.fetch(*QUEUES, count=PAGE_MAX),
            )
            self._held = list(reply.deliveries)
            if not self._held:
                return


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_crowd_that_does_anything(postgres_server: Server, namespace: str, seed: int) -> None:
    ledger = Ledger()
    async with AsyncExitStack() as stack, asyncio.timeout(240):
        stores = [
            await stack.enter_async_context(opened(postgres_server.url, namespace, f"c{number}", max_size=1))
            for number in range(CLIENTS)
        ]
        await stores[0].limit("q", retain_ended=(1_000, 20), retain_dead=(DAY_MS, 50), active_max=15)
        actors = [Actor(store, number, ledger, seed * 100 + number) for number, store in enumerate(stores)]
        await asyncio.gather(*(actor.run() for actor in actors))
        await stores[0].backend.reap(PAGE_MAX)
        await stores[0].limit("q", retain_ended=None, retain_dead=None)
        await stores[0].lose()
        await stores[0].advance(DAY_MS)
        await Actor(stores[0], CLIENTS, ledger, seed).finish()
        ids = sorted(ledger.made)
        found = {each: status for each, status in zip(ids, await statuses(stores[0], ids), strict=True) if status}
        assert set(found.values()) <= set(ENDED), found
        assert len(ledger.pruned) == len(set(ledger.pruned))
        assert set(ids) - found.keys() == set(ledger.pruned)
        assert len(found) + len(ledger.pruned) > CALLS


async def statuses(store: Store, ids: list[str]) -> list[str | None]:
    return [
        each
        for page in (ids[start : start + PAGE_MAX] for start in range(0, len(ids), PAGE_MAX))
        for each in await store.statuses(*page)
    ]
