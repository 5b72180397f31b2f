"""A store beside many ended jobs that retention keeps: is a job as cheap, and what does looking after them cost?

    python -m benchmarks.ended --ended 10000000 --waiting 1000000
    python -m benchmarks.ended --store redis --ended 10000000 --waiting 1000000

Rounds of settles of 200 jobs, then prunes that find nothing to delete: the first with the waiting jobs alone, the
others beside the ended ones. On PostgreSQL both kinds are laid as rows that calls would have left, with vacuum and
analyze behind them, and counted from nothing, as after an upgrade; on Redis they are laid by calls. CPU is that of all
processes of the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import asyncpg
from benchmarks.redis_server import Client
from benchmarks.spec import Facts, Spec
from benchmarks.stores import STORES

from benchmarks import machine, servers
from psyqueue import PsyQueue
from psyqueue.backend import Ack, BackendAdapter, Delivery, Fetch, Limits, NewJob, Op, Session
from psyqueue.clock import SystemClock
from psyqueue.ids import new_id, new_token

CALL, LAID, PRUNES, PIECE = 200, 500, 3, 250_000
DAY_MS = 86_400_000
SCHEMA, QUEUE = "ended", "q"
PENDING, COMPLETED = 2, 4
LAY = """
    SET search_path = ended;
    WITH laid AS (
        INSERT INTO body (n, id, digest, cold, payload)
        SELECT nextval('number'), 'laid-' || gen_random_uuid(), '', '{}', '{"i":1}' FROM generate_series(1, %(count)d)
        RETURNING n, id
    )
    INSERT INTO job (
        n, created_at_ms, run_at_ms, ready_number, completed_at_ms, attempt, fence, status,
        priority, max_retries, max_lost, size, id, queue, lane, name
    ) SELECT n, %(at_ms)d, %(at_ms)d, n, CASE WHEN %(status)d = 4 THEN %(at_ms)d + n / 10 END,
        %(status)d / 4, %(status)d / 4, %(status)d, 0, 3, 2, 9, id, 'q', '', 'work' FROM laid
"""


class Talk:
    """One worker's session."""

    def __init__(self, backend: BackendAdapter) -> None:
        self._backend = backend
        self._turn = 0
        self._held: tuple[Delivery, ...] = ()

    def _op(self) -> Op:
        self._turn += 1
        return Op("bench", 0, self._turn)

    async def open(self) -> None:
        session = Session(id="bench", worker="bench", queues=(QUEUE,), lease_ms=DAY_MS)
        await self._backend.open_session(self._op(), session)
        await self._backend.put_limits(self._op(), [Limits(queue=QUEUE, retain_ended=(30 * DAY_MS, 10**8))])

    async def enqueue(self, count: int, priority: int) -> None:
        for start in range(0, count, LAID):
            jobs = [_job(priority) for _ in range(min(LAID, count - start))]
            await self._backend.enqueue(self._op(), jobs)

    async def settle(self, count: int) -> None:
        """Ack what is held, fetch as many."""
        acks = [Ack(job_id=each.id, completion_token=each.completion_token) for each in self._held]
        fetch = Fetch(queues=(QUEUE,), count=count, token_seed=new_token())
        self._held = (await self._backend.settle(self._op(), "bench", acks, fetch)).deliveries

    async def prune(self) -> int:
        """Until nothing is left to look at; in how many calls."""
        calls = 1
        while (await self._backend.prune(500)).more:
            calls += 1
        return calls


def _job(priority: int) -> NewJob:
    return NewJob(id=new_id(), queue=QUEUE, name="work", payload=b'{"i":1}', priority=priority)


class Ground(Protocol):
    """The store that jobs are laid in, seen from beside. `counts`: what its server counts, a part for each job."""

    async def lay(self, talk: Talk, count: int, status: int) -> None: ...
    async def counts(self) -> dict[str, int]: ...
    async def size_mb(self) -> int: ...


class OnPostgres:
    def __init__(self, sql: asyncpg.Connection) -> None:
        self._sql = sql

    async def lay(self, talk: Talk, count: int, status: int) -> None:
        del talk
        at_ms = SystemClock().now_ms() - 10 * DAY_MS
        for start in range(0, count, PIECE):
            await self._sql.execute(LAY % {"count": min(PIECE, count - start), "at_ms": at_ms, "status": status})
        for statement in ("DELETE FROM ended.tally", "VACUUM ANALYZE", "CHECKPOINT"):
            await self._sql.execute(statement)

    async def counts(self) -> dict[str, int]:
        position = await self._sql.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")
        return {"log_bytes": int(position)}

    async def size_mb(self) -> int:
        return round(int(await self._sql.fetchval("SELECT pg_database_size(current_database())")) / 1e6)


class OnRedis:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def lay(self, talk: Talk, count: int, status: int) -> None:
        """Those that are to end come before those that wait, since their priority is higher."""
        if status == PENDING:
            await talk.enqueue(count, priority=0)
            return
        for start in range(0, count, PIECE):
            piece = min(PIECE, count - start)
            await talk.enqueue(piece, priority=1)
            for _ in range(0, piece, LAID):
                await talk.settle(LAID)

    async def counts(self) -> dict[str, int]:
        return {"commands": int(self._client.info()["total_commands_processed"])}

    async def size_mb(self) -> int:
        return round(int(self._client.info()["used_memory"]) / 1e6)


@asynccontextmanager
async def on_postgres(url: str) -> AsyncIterator[Ground]:
    sql = await asyncpg.connect(url)
    try:
        yield OnPostgres(sql)
    finally:
        await sql.close()


@asynccontextmanager
async def on_redis(url: str) -> AsyncIterator[Ground]:
    client = Client.at(Spec(store="redis", case="ended", kind="bulk", peer="psyqueue", n=0, url=url))
    try:
        yield OnRedis(client)
    finally:
        client.close()


GROUNDS: dict[str, tuple[Callable[[str], AbstractAsyncContextManager[Ground]], str]] = {
    "postgres": (on_postgres, f"?schema={SCHEMA}"),
    "redis": (on_redis, ""),
}


class Bench:
    def __init__(self, talk: Talk, ground: Ground, server_pid: int) -> None:
        self._talk, self._ground, self._server_pid = talk, ground, server_pid

    async def round(self, jobs: int) -> Facts:
        counts = await self._ground.counts()
        began_s, cpu_s = time.perf_counter(), machine.cpu_s_of(self._server_pid)
        for _ in range(jobs // CALL):
            await self._talk.settle(CALL)
        took_s, took_cpu_s = time.perf_counter() - began_s, machine.cpu_s_of(self._server_pid) - cpu_s
        facts: Facts = {"jobs_per_s": round(jobs / took_s), "server_us_per_job": round(took_cpu_s / jobs * 1e6, 1)}
        for name, count in (await self._ground.counts()).items():
            facts[f"{name}_per_job"] = round((count - counts[name]) / jobs, 2)
        facts["size_mb"] = await self._ground.size_mb()
        return facts | {"prunes": [await self._pruned() for _ in range(PRUNES)]}

    async def _pruned(self) -> Facts:
        began_s, cpu_s = time.perf_counter(), machine.cpu_s_of(self._server_pid)
        calls = await self._talk.prune()
        took_cpu_s = machine.cpu_s_of(self._server_pid) - cpu_s
        return {
            "calls": calls,
            "ms": round((time.perf_counter() - began_s) * 1e3, 1),
            "cpu_ms": round(took_cpu_s * 1e3),
        }


async def measured(store: str, server: servers.Server, ended: int, waiting: int, jobs: int) -> list[Facts]:
    open_ground, options = GROUNDS[store]
    backend: BackendAdapter = PsyQueue.from_url(f"{server.url}{options}").get_exposed("backend")
    await backend.connect()
    try:
        async with open_ground(server.url) as ground:
            talk = Talk(backend)
            await talk.open()
            await ground.lay(talk, waiting, PENDING)
            bench = Bench(talk, ground, server.pid)
            rounds = [{"ended": 0} | await bench.round(jobs)]
            await ground.lay(talk, ended, COMPLETED)
            return [*rounds, *[{"ended": ended} | await bench.round(jobs) for _ in range(2)]]
    finally:
        await backend.disconnect()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=sorted(GROUNDS), default="postgres")
    parser.add_argument("--ended", type=int, default=1_000_000)
    parser.add_argument("--waiting", type=int, default=200_000)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="where the database lies meanwhile")
    options = parser.parse_args()
    find = STORES[options.store].find
    found = find() if find is not None else None
    if found is None:
        parser.error(f"there is no server for {options.store} here")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        place = Path(folder) / "one"
        place.mkdir()
        Path(folder).chmod(0o755)
        spec = Spec(store=options.store, case="ended", kind="bulk", peer="psyqueue", n=options.jobs, folder=str(place))
        server = servers.start(replace(spec, server=found.path))
        try:
            with machine.Window() as window:
                trial = measured(options.store, server, options.ended, options.waiting, options.jobs)
                rounds = asyncio.run(trial)
        finally:
            server.stop()
        facts = {
            "store": options.store,
            "waiting": options.waiting,
            "server": found.facts["version"],
            "rounds": rounds,
            "meanwhile": window.facts(),
        }
        facts |= {"commit": machine.commit(Path(__file__).parents[1]), "machine": machine.facts(place)}
    print(json.dumps(facts, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
