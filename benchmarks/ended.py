"""PostgreSQL beside many ended jobs that retention keeps: is a job as cheap, and what does looking after them cost?

    python -m benchmarks.ended --ended 10000000 --waiting 1000000

Rounds of settles of 200 jobs, then prunes that find nothing to delete: the first with the waiting jobs alone, the
others beside the ended ones. Both kinds are laid as rows that calls would have left, not by calls; vacuum and analyze
come before each. CPU is that of all processes of the server. The ended jobs are counted from nothing, as after an
upgrade.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import asyncpg
from benchmarks.spec import Facts, Spec
from benchmarks.stores import STORES

from benchmarks import machine, servers
from psyqueue import PsyQueue
from psyqueue.backend import Ack, BackendAdapter, Delivery, Fetch, Limits, Op, Session
from psyqueue.clock import SystemClock
from psyqueue.ids import new_token

CALL, PRUNES, PIECE = 200, 3, 250_000
DAY_MS = 86_400_000
SCHEMA, QUEUE = "ended", "q"
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


class Bench:
    """One worker's session, beside a connection that lays rows."""

    def __init__(self, backend: BackendAdapter, sql: asyncpg.Connection, server_pid: int) -> None:
        self._backend, self._sql, self._server_pid = backend, sql, server_pid
        self._turn = 0
        self._held: tuple[Delivery, ...] = ()

    def _op(self) -> Op:
        self._turn += 1
        return Op("bench", 0, self._turn)

    async def open(self) -> None:
        await self._backend.open_session(
            self._op(), Session(id="bench", worker="bench", queues=(QUEUE,), lease_ms=DAY_MS)
        )
        await self._backend.put_limits(self._op(), [Limits(queue=QUEUE, retain_ended=(30 * DAY_MS, 10**8))])

    async def lay(self, count: int, status: int) -> None:
        at_ms = SystemClock().now_ms() - 10 * DAY_MS
        for start in range(0, count, PIECE):
            await self._sql.execute(LAY % {"count": min(PIECE, count - start), "at_ms": at_ms, "status": status})
        await self._sql.execute("DELETE FROM ended.tally")
        await self._sql.execute("VACUUM ANALYZE")
        await self._sql.execute("CHECKPOINT")

    async def round(self, jobs: int) -> Facts:
        log = await self._log_bytes()
        began_s, cpu_s = time.perf_counter(), machine.cpu_s_of(self._server_pid)
        for _ in range(jobs // CALL):
            acks = [Ack(job_id=each.id, completion_token=each.completion_token) for each in self._held]
            fetch = Fetch(queues=(QUEUE,), count=CALL, token_seed=new_token())
            self._held = (await self._backend.settle(self._op(), "bench", acks, fetch)).deliveries
        took_s, took_cpu_s = time.perf_counter() - began_s, machine.cpu_s_of(self._server_pid) - cpu_s
        facts = {"jobs_per_s": round(jobs / took_s), "server_us_per_job": round(took_cpu_s / jobs * 1e6, 1)}
        facts["log_bytes_per_job"] = round((await self._log_bytes() - log) / jobs, 1)
        return facts | {"prunes": [await self._pruned() for _ in range(PRUNES)]}

    async def _log_bytes(self) -> int:
        return int(await self._sql.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))

    async def _pruned(self) -> Facts:
        """Until nothing is left to count."""
        began_s, cpu_s, calls = time.perf_counter(), machine.cpu_s_of(self._server_pid), 1
        while (await self._backend.prune(500)).more:
            calls += 1
        took_cpu_s = machine.cpu_s_of(self._server_pid) - cpu_s
        return {
            "calls": calls,
            "ms": round((time.perf_counter() - began_s) * 1e3, 1),
            "cpu_ms": round(took_cpu_s * 1e3),
        }


async def measured(url: str, server_pid: int, ended: int, waiting: int, jobs: int) -> list[Facts]:
    backend: BackendAdapter = PsyQueue.from_url(f"{url}?schema={SCHEMA}").get_exposed("backend")
    await backend.connect()
    sql = await asyncpg.connect(url)
    try:
        bench = Bench(backend, sql, server_pid)
        await bench.open()
        await bench.lay(waiting, 2)
        rounds = [{"ended": 0} | await bench.round(jobs)]
        await bench.lay(ended, 4)
        return [*rounds, *[{"ended": ended} | await bench.round(jobs) for _ in range(2)]]
    finally:
        await sql.close()
        await backend.disconnect()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ended", type=int, default=1_000_000)
    parser.add_argument("--waiting", type=int, default=200_000)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="where the database lies meanwhile")
    options = parser.parse_args()
    find = STORES["postgres"].find
    found = find() if find is not None else None
    if found is None:
        parser.error("there is no PostgreSQL server here")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        place = Path(folder) / "one"
        place.mkdir()
        Path(folder).chmod(0o755)
        spec = Spec(store="postgres", case="ended", kind="bulk", peer="psyqueue", n=options.jobs, folder=str(place))
        server = servers.start(replace(spec, server=found.path))
        try:
            with machine.Window() as window:
                rounds = asyncio.run(measured(server.url, server.pid, options.ended, options.waiting, options.jobs))
        finally:
            server.stop()
        facts = {
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
