"""What PostgreSQL gives through asyncpg, without a queue: one connection, `callers` rows a commit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.machine import Window
from benchmarks.peers.asynchronous import run
from benchmarks.spec import Facts, Spec

TABLE = """
CREATE TABLE bench (id bigint PRIMARY KEY, state smallint NOT NULL DEFAULT 0, body text NOT NULL);
CREATE INDEX bench_ready ON bench (id) WHERE state = 0;
"""
INSERT = "INSERT INTO bench (id, body) SELECT i, '{\"i\":' || i || '}' FROM unnest($1::bigint[]) AS i"
MOVE = """
WITH gone AS (DELETE FROM bench WHERE id = ANY ($1::bigint[]))
UPDATE bench SET state = 1 WHERE id = ANY (ARRAY(
    SELECT id FROM bench WHERE state = 0 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED
)) RETURNING id, body
"""


def select(spec: Spec) -> Facts:
    """Round trips of one caller, one after the other."""

    async def work(connection: Any) -> Facts:
        with Window() as window:
            for _ in range(spec.n):
                await connection.fetchval("SELECT 1")
        return window.rate(spec.n)

    return run(_connected(spec, work), spec)


def insert(spec: Spec) -> Facts:
    async def work(connection: Any) -> Facts:
        with Window() as window:
            await _insert(connection, spec)
        return window.rate(spec.n)

    return run(_connected(spec, work), spec)


def move(spec: Spec) -> Facts:
    """The least a queue does with a job: ready to active, and active to gone, in one statement."""

    async def work(connection: Any) -> Facts:
        await _insert(connection, spec)
        await connection.execute("VACUUM ANALYZE bench")
        ids: list[int] = []
        count = 0
        with Window() as window:
            while found := await connection.fetch(MOVE, ids, spec.callers):
                ids = [row[0] for row in found]
                count += len(ids)
        if count != spec.n:
            raise RuntimeError(f"{count} of {spec.n} were moved")
        return window.rate(spec.n)

    return run(_connected(spec, work), spec)


async def _insert(connection: Any, spec: Spec) -> None:
    for start in range(0, spec.n, spec.callers):
        await connection.execute(INSERT, list(range(start, min(spec.n, start + spec.callers))))


async def _connected(spec: Spec, work: Callable[[Any], Awaitable[Facts]]) -> Facts:
    import asyncpg

    connection = await asyncpg.connect(spec.url)
    await connection.execute(TABLE)
    return await work(connection)
