"""pgqueuer on asyncpg. It deletes a job that is done and logs that; a run ends when none is left in its table.

Its worker bounds no concurrency: it takes batches of 10 by default, and runs what it has. Larger ones are faster. One
connection for all, as its own examples have it; who enqueues with 100 callers has a pool of ten.
"""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

from benchmarks.peers.asynchronous import Kinds
from benchmarks.peers.recorder import Recorder
from benchmarks.spec import Spec


class Queue:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._asyncpg: Any = import_module("asyncpg")
        self._drivers: Any = import_module("pgqueuer.adapters.drivers.asyncpg")
        self._make_queries: Any = import_module("pgqueuer.queries").Queries

    async def open(self) -> None:
        if self._spec.callers > 1:
            pool = await self._asyncpg.create_pool(self._spec.url, min_size=10, max_size=10)
            self._queries = self._make_queries(self._drivers.AsyncpgPoolDriver(pool))
        else:
            self._queries = await self._connected()
        self._looker = await self._asyncpg.connect(self._spec.url)
        if not await self._looker.fetchval("select to_regclass('pgqueuer') is not null"):
            await self._queries.install()

    async def _connected(self) -> Any:
        return self._make_queries(self._drivers.AsyncpgDriver(await self._asyncpg.connect(self._spec.url)))

    async def put(self, payload: dict[str, Any]) -> None:
        await self._queries.enqueue("noop", json.dumps(payload).encode())

    async def put_many(self, payloads: list[dict[str, Any]]) -> None:
        count = len(payloads)
        bodies = [json.dumps(payload).encode() for payload in payloads]
        await self._queries.enqueue(["noop"] * count, bodies, [0] * count)

    async def is_settled(self) -> bool:
        return bool(await self._looker.fetchval("select not exists (select from pgqueuer)"))

    async def work(self, recorder: Recorder) -> None:
        # It closes its connection at the end.
        manager = import_module("pgqueuer.qm").QueueManager(await self._connected())

        @manager.entrypoint("noop")
        async def noop(job: Any) -> None:
            recorder.start(json.loads(job.payload))

        await manager.run(**({"batch_size": self._spec.batch} if self._spec.batch else {}))


KINDS = Kinds(Queue)
