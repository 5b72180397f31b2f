"""procrastinate on psycopg. A job that is done is deleted (`delete_jobs="successful"`): keeping it was no faster.

A run ends when none is left to do in its table. Its pool has ten connections.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

from benchmarks.peers.asynchronous import Kinds
from benchmarks.peers.payload import wait_s
from benchmarks.peers.recorder import Recorder
from benchmarks.spec import Spec

CONNECTIONS = 10


class Queue:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._recorder: Recorder | None = None
        module: Any = import_module("procrastinate")
        self._app: Any = module.App(connector=module.PsycopgConnector(conninfo=spec.url, max_size=CONNECTIONS))

        async def noop(**payload: Any) -> None:
            assert self._recorder is not None
            self._recorder.start(payload)
            if spec.wait_ms_max:
                await asyncio.sleep(wait_s(spec, payload["i"]))

        self._task: Any = self._app.task(name="noop")(noop)

    async def open(self) -> None:
        psycopg: Any = import_module("psycopg")
        await self._app.open_async()
        self._looker = await psycopg.AsyncConnection.connect(self._spec.url, autocommit=True)
        if not await self._is("to_regclass('procrastinate_jobs') is not null"):
            await self._app.schema_manager.apply_schema_async()

    async def put(self, payload: dict[str, Any]) -> None:
        await self._task.defer_async(**payload)

    async def put_many(self, payloads: list[dict[str, Any]]) -> None:
        await self._task.batch_defer_async(*payloads)

    async def is_settled(self) -> bool:
        return await self._is("not exists (select from procrastinate_jobs where status in ('todo', 'doing'))")

    async def work(self, recorder: Recorder) -> None:
        self._recorder = recorder
        await self._app.run_worker_async(
            concurrency=self._spec.concurrency, delete_jobs="successful", install_signal_handlers=False
        )

    async def _is(self, condition: str) -> bool:
        cursor = await self._looker.execute(f"select {condition}")
        return bool((await cursor.fetchone())[0])


KINDS = Kinds(Queue)
