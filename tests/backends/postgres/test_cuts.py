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


async def test_calls_that_are_cut_and_repeated_count_once(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    runs: Counter[str] = Counter()

    async def produce(store: Store) -> None:
        for number in range(JOBS):
            op, jobs, effects = store.op(), (job(f"j{number}"),), Effects(writes=(add("made"),))
            await known(lambda: store.backend.enqueue(op, jobs, effects))  # noqa: B023 - awaited here

    async def work(store: Store) -> None:
        outcomes: tuple[AnyOutcome, ...] = ()
        while sum(runs.values()) < JOBS or outcomes:
            op, fetch, now = store.op(), store.fetch(count=5), outcomes
            reply = await known(lambda: store.backend.settle(op, "s", now, fetch))  # noqa: B023 - awaited here
            assert {each.verdict for each in reply.settled} <= {"ok"}
            runs.update(each.id for each in reply.deliveries)
            outcomes = tuple(
                ack(each, effects=Effects(writes=(add("done"),))) if number % 2 else ack(each)
                for number, each in enumerate(reply.deliveries)
            )

    async def cut() -> int:
        count = 0
        async with connected(url) as killer:
            while not is_over.is_set():
                count += await killer.fetchval(_CUT, namespace)
        return count

    is_over = asyncio.Event()
    async with opened(url, namespace, "a", application_name=namespace) as store, opened(url, namespace, "b") as calm:
        await store.open_session()
        worker = Store(store.backend, client="worker")
        cutting = asyncio.ensure_future(cut())
        try:
            async with asyncio.timeout(120):
                await asyncio.gather(produce(store), work(worker))
        finally:
            is_over.set()
        assert await cutting > 3
        assert set(runs.values()) == {1}
        assert len(runs) == JOBS
        assert await calm.count("completed") == JOBS
        made = await calm.read("made")
        assert made is not None
        assert made.value == str(JOBS).encode()


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
