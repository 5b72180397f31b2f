"""Behind a pooler in transaction mode: no session is ours, nobody can listen, and jobs are run all the same.

The pooler is one of ours, which swaps sessions as often as it can; and PgBouncer, where it is installed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from backends.postgres.stores import LIMIT_S, connected, opened
from psyqueue.backends._postgres import PostgresBackend, PostgresOptions
from psyqueue.errors import StoreUnusable
from support.pgbouncer import start_pgbouncer
from support.pooler import Pooler, pooler_before
from support.servers import Server, Unavailable
from support.store_at import place_on, store_at
from worker.rig import Rig, count_effects, effects_of, renewed_often, started, until

LEASE_MS = 2_000
_LISTENERS = "select count(*) from pg_stat_activity where query ilike 'listen%' and application_name = $1"


@pytest.fixture
async def pooler(postgres_server: Server) -> AsyncIterator[Pooler]:
    async with pooler_before(postgres_server) as made:
        yield made


@pytest.fixture(params=["ours", "pgbouncer"])
async def pooled_url(request, postgres_server: Server) -> AsyncIterator[str]:
    if request.param == "ours":
        async with pooler_before(postgres_server) as pooler:
            yield pooler.url
        return
    try:
        bouncer = start_pgbouncer(postgres_server)
    except Unavailable as exc:
        pytest.skip(str(exc))
    try:
        yield bouncer.url
    finally:
        bouncer.stop()


async def test_a_worker_behind_a_pooler_runs_all_jobs_once_and_keeps_its_lease(pooled_url, namespace, monkeypatch):
    """Some runs are longer than the lease, and jobs come to a worker that sleeps."""
    count_effects(monkeypatch)
    starts: Counter[int] = Counter()
    async with started(Rig(store_at(place_on(pooled_url, namespace), prepared=False))) as rig:

        @rig.q.handle("h", queue="q", max_retries=0)
        async def handler(n: int) -> int:
            starts[n] += 1
            if n % 25 == 0:
                await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=1.5 * LEASE_MS / 1000)
            return n

        worker = rig.worker(concurrency=8, lease_ms=renewed_often(monkeypatch, LEASE_MS))
        jobs = await asyncio.gather(*[handler.enqueue(n) for n in range(100)])
        assert await rig.ended(*jobs) == ["completed"] * 100
        await until(lambda: worker._is_resting)
        jobs.append(await handler.enqueue(101))
        assert await jobs[-1].result(LIMIT_S) == 101
        assert set(starts.values()) == {1}
        assert await effects_of(rig, jobs) == [1] * 101
        assert worker.failure is None


async def test_behind_a_pooler_nobody_listens_and_nobody_is_noted_as_asleep(pooler, postgres_server, namespace):
    """What one session listens to, another client would hear; and a notice to nobody costs all."""
    async with (
        opened(pooler.url, namespace, prepared=False, application_name=namespace) as store,
        opened(postgres_server.url, namespace, "direct") as direct,
        connected(postgres_server.url) as looker,
    ):
        waiting = asyncio.ensure_future(store.backend.wait(("q",), (), 60_000))
        await asyncio.sleep(0)
        await direct.add("a")
        assert await asyncio.wait_for(waiting, LIMIT_S)
        assert await looker.fetchval(f'select count(*) from "{namespace}".sleeper') == 0
        assert await looker.fetchval(_LISTENERS, namespace) == 0
        assert pooler.swaps > 0


async def test_prepared_statements_behind_a_pooler_are_told_with_the_way_out(pooler, namespace):
    backend = PostgresBackend(PostgresOptions(connection_string=pooler.url, schema=namespace, max_size=1))
    with pytest.raises(StoreUnusable, match="prepared=False"):
        await asks_again_and_again(backend)
    await backend.disconnect()
    assert pooler.swaps > 0


async def asks_again_and_again(backend: PostgresBackend) -> None:
    await backend.connect()
    for _ in range(20):
        await backend.info()
