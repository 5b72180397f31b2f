"""Connections that the server cuts at any moment: whoever repeats his call finds out, and nothing happens twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from backends.postgres.stores import connected, opened
from psyqueue.backend import AnyOutcome, Effects
from psyqueue.backends._postgres import listening
from psyqueue.errors import StoreUnavailable
from psyqueue.testing.conformance.handle import Store, ack, add, job
from support.servers import Server

R = TypeVar("R")
JOBS = 150
CUTS = 4
_CUT = """
    select count(pg_terminate_backend(pid)) from pg_stat_activity, pg_sleep(0.15) where application_name = $1
"""


async def known(call: Callable[[], Awaitable[R]]) -> R:
    """The reply, however often it takes."""
    while True:
        try:
            return await call()
        except StoreUnavailable:
            continue


class Cutter:
    """Throws `name`'s connections out again and again; between two cuts some call has come through."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._came_through = asyncio.Event()
        self._is_over = False
        self.count = 0

    async def known(self, call: Callable[[], Awaitable[R]]) -> R:
        reply = await known(call)
        self._came_through.set()
        return reply

    async def cut(self) -> None:
        async with connected(self._url) as killer:
            while not self._is_over:
                await self._came_through.wait()
                self._came_through.clear()
                self.count += await killer.fetchval(_CUT, self._name)

    def end(self) -> None:
        self._is_over = True
        self._came_through.set()


async def test_calls_that_are_cut_and_repeated_count_once(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    made: list[str] = []
    runs: Counter[str] = Counter()
    cutter = Cutter(url, namespace)
    all_made = asyncio.Event()

    async def produce(store: Store) -> None:
        while len(made) < JOBS or cutter.count < CUTS:
            op, jobs, effects = store.op(), (job(f"j{len(made)}"),), Effects(writes=(add("made"),))
            await cutter.known(lambda: store.backend.enqueue(op, jobs, effects))  # noqa: B023 - awaited here
            made.append(jobs[0].id)
        all_made.set()

    async def work(store: Store) -> None:
        outcomes: tuple[AnyOutcome, ...] = ()
        while sum(runs.values()) < len(made) or outcomes or not all_made.is_set():
            op, fetch, now = store.op(), store.fetch(count=5), outcomes
            reply = await cutter.known(lambda: store.backend.settle(op, "s", now, fetch))  # noqa: B023 - awaited here
            assert {each.verdict for each in reply.settled} <= {"ok"}
            runs.update(each.id for each in reply.deliveries)
            outcomes = tuple(
                ack(each, effects=Effects(writes=(add("done"),))) if number % 2 else ack(each)
                for number, each in enumerate(reply.deliveries)
            )

    async with opened(url, namespace, "a", application_name=namespace) as store, opened(url, namespace, "b") as calm:
        await store.open_session()
        worker = Store(store.backend, client="worker")
        cutting = asyncio.ensure_future(cutter.cut())
        try:
            async with asyncio.timeout(100):
                await asyncio.gather(produce(store), work(worker))
        finally:
            cutter.end()
            await cutting
        assert runs == dict.fromkeys(made, 1)
        assert await calm.count("completed") == len(made)
        counted = await calm.read("made")
        assert counted is not None
        assert counted.value == str(len(made)).encode()


async def test_a_wait_survives_a_cut(postgres_server: Server, namespace: str) -> None:
    """The listening connection is made anew, and the store looked at for what was missed."""
    url = postgres_server.url
    async with opened(url, namespace, application_name=namespace) as store, opened(url, namespace, "b") as other:
        waiting = asyncio.ensure_future(store.backend.wait(("q",), (), 60_000))
        async with connected(url) as killer, asyncio.timeout(30):
            while not await killer.fetchval(f'select count(*) from "{namespace}".sleeper, pg_sleep(0.01)'):
                assert not waiting.done()
            await killer.fetchval(_CUT, namespace)
            await other.add("a")
            assert await waiting


async def test_whoever_sleeps_is_written_down_again_when_the_server_forgot_him(
    postgres_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is not logged: a crash empties it, and a standby never had it. What is sure then is that we were cut."""
    monkeypatch.setattr(listening, "SLEEP_AGAIN_MS", 3_600_000)
    url = postgres_server.url
    sleepers = f'select count(*) from "{namespace}".sleeper, pg_sleep(0.01)'
    async with opened(url, namespace, application_name=namespace) as store, connected(url) as admin:
        waiting = asyncio.ensure_future(store.backend.wait(("q",), (), 60_000))
        async with asyncio.timeout(30):
            while not await admin.fetchval(sleepers):
                assert not waiting.done()
            await admin.execute(f'truncate "{namespace}".sleeper')
            assert await admin.fetchval(f"{_CUT} and query ilike 'listen %'", namespace) == 1
            while not await admin.fetchval(sleepers):
                assert not waiting.done()
            await store.add("a")
            assert await waiting


async def test_a_keeper_connects_again(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace, application_name=namespace) as store, connected(url) as killer:
        await store.open_session()
        keeper = store.backend.keeper()
        try:
            assert (await asyncio.to_thread(keeper.renew, "s")).open
            await killer.fetchval(_CUT, namespace)
            with pytest.raises(StoreUnavailable):
                await asyncio.to_thread(keeper.renew, "s")
            assert (await asyncio.to_thread(keeper.renew, "s")).open
        finally:
            await asyncio.to_thread(keeper.close)
        with pytest.raises(StoreUnavailable, match="closed"):
            keeper.renew("s")
