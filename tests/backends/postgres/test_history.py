"""The views for auditors: their columns and queries as docs/backends/postgres.md has them, and rows that are odd.

Method: a story is told on a store whose clock the test moves, and each query of the page has to find it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from backends.postgres.stores import connected, opened
from psyqueue.backend import Change, Gate
from psyqueue.testing.conformance.handle import LEASE_MS, Store, job
from support.postgres_page import documented_columns, documented_sql, in_schema
from support.postgres_roles import AUDIT, GRANTS, Roles
from support.servers import Server

HOUR_MS = 3_600_000
TYPES = {"integer", "text", "boolean", "jsonb", "bytea", "timestamp with time zone"}


class Told:
    """A store with a story of some jobs; instants are seconds since a full hour."""

    def __init__(self, store: Store, connection: asyncpg.Connection, schema: str) -> None:
        self.store = store
        self.connection = connection
        self.schema = schema
        self.began_ms = 0

    async def now_s(self) -> float:
        return (await self.store.now_ms() - self.began_ms) / 1000

    def at(self, seconds: float) -> datetime:
        return datetime.fromtimestamp(self.began_ms / 1000, UTC) + timedelta(seconds=seconds)

    async def ask(self, title: str) -> list[tuple[Any, ...]]:
        """The rows of the page's query."""
        (query,) = documented_sql(title)
        return [tuple(row) for row in await self.connection.fetch(in_schema(query, self.schema))]

    async def tell(self) -> None:
        store = self.store
        await store.advance(HOUR_MS - await store.now_ms() % HOUR_MS)
        self.began_ms = await store.now_ms()
        await store.add("order-1", name="mail", payload=b'{"customer": 17, "to": "x"}')
        await store.advance(5_000)
        mail = await store.dequeue_one()
        await store.advance(2_000)
        await store.ack(mail, b'{"sent": true}')
        await self.tell_of_a_job_that_fails_and_is_lost()
        await store.add("order-3", name="mail", payload=b'{"customer": 3}')
        await store.kill(await store.dequeue_one(session="t"), session="t")
        await store.advance(HOUR_MS)
        await store.add("order-4", name="mail", payload=b'{"customer": 3}')
        fast = await store.dequeue_one(session="u")
        await store.advance(1_000)
        await store.ack(fast, session="u")
        await store.add("order-5", name="report", payload=b'{"customer": 4}')

    async def tell_of_a_job_that_fails_and_is_lost(self) -> None:
        store = self.store
        await store.add("order-2", name="report", payload=b'{"customer": 17}')
        delivery = await store.dequeue_one()
        await store.advance(10_000)
        error = {"type": "ValueError", "message": "no paper", "attempt": 1, "at_ms": await store.now_ms()}
        await store.retry(delivery, 60_000, msgspec.json.encode(error))
        await store.advance(60_000)
        await store.dequeue_one()
        await store.lose()
        last = await store.dequeue_one(session="t")
        await store.advance(8_000)
        await store.ack(last, b'{"pages": 3}', session="t")


@pytest.fixture
async def told(postgres_server: Server, namespace: str) -> AsyncIterator[Told]:
    async with opened(postgres_server.url, namespace) as store, connected(postgres_server.url) as connection:
        await connection.set_type_codec("jsonb", encoder=str, decoder=msgspec.json.decode, schema="pg_catalog")
        await connection.execute("set timezone = 'UTC'")
        told = Told(store, connection, namespace)
        await told.tell()
        yield told


LOST_AT_S = 7 + 10 + 60 + LEASE_MS / 1000 + 0.001
"""When order-2 was taken back: 5 and 2 of order-1 before it, its failed run, the wait, and the lease."""
ENDED_AT_S = LOST_AT_S + 8


# ── the queries of the page ───────────────────────────────────────────────────────────────────────────────────────────
async def test_throughput(told: Told) -> None:
    rows = await told.ask("throughput per hour")
    assert rows == [(told.at(0), "q", 2), (told.at(3_600), "q", 1)]


async def test_slowest_handlers(told: Told) -> None:
    rows = await told.ask("slowest handlers")
    assert rows == [("report", 1, 8.0, 8.0, 8.0), ("mail", 2, 1.5, pytest.approx(1.95), 2.0)]


async def test_failures_by_error(told: Told) -> None:
    assert await told.ask("failures by error") == [
        ("mail", "Boom", 1, 1, None),
        ("report", "ValueError", 1, 1, told.at(17)),
        ("report", "WorkerLost", 1, 1, told.at(LOST_AT_S)),
    ]


async def test_longest_waits(told: Told) -> None:
    waited_s = LOST_AT_S - (7 + 10 + 60)
    rows = await told.ask("longest waits")
    assert rows[:2] == [("order-2", "q", "report", pytest.approx(waited_s)), ("order-1", "q", "mail", 5.0)]
    assert {(row[0], row[3]) for row in rows[2:]} == {("order-3", 0.0), ("order-4", 0.0)}


async def test_jobs_of_a_customer(told: Told) -> None:
    assert await told.ask("what became of the jobs of a customer") == [
        ("order-1", "mail", "completed", "", "17", told.at(7)),
        ("order-2", "report", "completed", "", "17", told.at(ENDED_AT_S)),
    ]


async def test_story_of_a_job(told: Told) -> None:
    assert await told.ask("the story of one job") == [
        ("enqueued", told.at(7), '{"customer": 17}'),
        ("failed", told.at(17), "ValueError: no paper"),
        ("lost", told.at(LOST_AT_S), "WorkerLost: worker 'worker of s' stopped renewing its lease"),
        ("completed", told.at(ENDED_AT_S), '{"pages": 3}'),
    ]


# ── what the views promise ────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("view", ["jobs", "failed_runs"])
async def test_columns_are_those_of_the_page(postgres_server: Server, namespace: str, view: str) -> None:
    text = """
        select column_name, data_type from information_schema.columns
        where table_schema = $1 and table_name = $2 order by ordinal_position
    """
    async with opened(postgres_server.url, namespace), connected(postgres_server.url) as connection:
        found = [tuple(row) for row in await connection.fetch(text, namespace, view)]
    assert len(found) >= 12
    assert documented_columns(view) == found
    assert {kind for _, kind in found} <= TYPES


async def test_each_column_says_what_the_job_is(told: Told) -> None:
    store = told.store
    await store.add(
        "full",
        "other",
        lane="l",
        priority=3,
        max_retries=7,
        gate=Gate("g", 1),
        cold=b'{"tenant_id": "t", "meta": {"x": 1}}',
        expires_in_ms=HOUR_MS,
    )
    (delivery,) = await store.dequeue("other", session="u")
    await store.amend(Change(kind="cancel"), "full")
    row = await told.connection.fetchrow(f"""select * from "{told.schema}".jobs where id = 'full'""")
    assert row is not None
    now = told.at(await told.now_s())
    wanted = {
        "queue": "other", "lane": "l", "name": "work", "status": "active", "priority": 3, "attempt": 1, "lost": 0,
        "max_retries": 7, "gate": "g", "held": False, "cancel_requested": True, "created_at": now, "run_at": now,
        "started_at": now, "completed_at": None, "expires_at": now + timedelta(hours=1), "worker": "worker of u",
        "payload": {"n": 1}, "payload_bytes": b'{"n":1}', "result": None, "result_bytes": None,
        "options": {"tenant_id": "t", "meta": {"x": 1}},
    }  # fmt: skip
    assert {name: row[name] for name in wanted} == wanted
    done = await told.connection.fetchrow(f"""select * from "{told.schema}".jobs where id = 'order-2'""")
    assert done is not None
    assert (done["lost"], done["result"], done["result_bytes"]) == (1, {"pages": 3}, b'{"pages": 3}')
    runs = await told.connection.fetch(
        f"""select * from "{told.schema}".failed_runs where job_id = 'order-2' order by number"""
    )
    assert [(run["number"], run["is_lost"], run["attempt"], run["type"]) for run in runs] == [
        (1, False, 1, "ValueError"),
        (2, True, 2, "WorkerLost"),
    ]
    assert runs[1]["error"]["session"] == "s"
    assert delivery.id == "full"


ODD = {
    b'{"a": "x\\u0000\\u0000"}': {"a": "x\ufffd\ufffd"},
    b'"\\\\u0000"': "\\u0000",
    b'"\\\\\\u0000"': "\\\ufffd",
    b'"\\\\u0000 \\u0000"': "\\u0000 \ufffd",
    b'"\\ud800"': None,
    b'"\\u0000\\ud800"': None,
    b"not json": None,
    b"\xff": None,
    b"": None,
    b"1e999999": None,
    b"null": None,
}
"""Body → what it is shown as."""


async def test_no_body_makes_a_view_fail(postgres_server: Server, namespace: str) -> None:
    """Bodies of foreign clients, as payload, as result and as error; one row beside them stays as it is."""
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await connection.set_type_codec("jsonb", encoder=str, decoder=msgspec.json.decode, schema="pg_catalog")
        bodies = [
            *ODD,
            b'{"type": "Fine", "at_ms": 1000000000000000000000, "attempt": -5}',
            b'{"at_ms": "x", "attempt": [1]}',
        ]
        await store.enqueue(*(job(f"j{number}", payload=body) for number, body in enumerate(bodies)))
        for body in bodies:
            delivery = await store.dequeue_one()
            await store.retry(delivery, error=body)
        for delivery in await store.dequeue(count=100):
            await store.ack(delivery, bodies[int(delivery.id[1:])])
        rows = await connection.fetch(f'select * from "{namespace}".jobs')
        assert len(rows) == len(bodies)
        for row in rows:
            body = bodies[int(row["id"][1:])]
            shown = ODD[body] if body in ODD else msgspec.json.decode(body)
            assert (row["payload"], row["result"]) == (shown, shown), body
            assert row["payload_bytes"] == body
        runs = await connection.fetch(f'select * from "{namespace}".failed_runs')
        assert {run["error_bytes"] for run in runs} == set(bodies)
        run = next(run for run in runs if run["type"] == "Fine")
        assert (run["failed_at"].year, run["attempt"]) == (9999, 0)
        assert not any(run["is_lost"] for run in runs)
        found = await connection.fetchval(
            f"""select count(*) from "{namespace}".jobs where payload->>'a' is not null"""
        )
        assert found == 1


async def test_instants_beyond_the_calendar_are_shown_as_its_end(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.add("late", run_at_ms=2**61, expires_in_ms=2**61)
        row = await connection.fetchrow(f'select run_at, expires_at from "{namespace}".jobs')
        assert row is not None
        assert (row["run_at"].year, row["expires_at"].year) == (9999, 9999)
        await connection.execute(f'update "{namespace}".job set created_at_ms = -(2::bigint ^ 62)::bigint')
        early = await connection.fetchval(f'select created_at from "{namespace}".jobs')
        assert early.year == 1


@pytest.mark.parametrize(("column", "is_read"), [("id", False), ("payload", True)])
async def test_bodies_are_read_only_where_they_are_asked_for(
    postgres_server: Server, namespace: str, column: str, is_read: bool
) -> None:
    url = postgres_server.url
    async with opened(url, namespace), connected(url) as connection:
        plan = await connection.fetch(f'explain (verbose) select {column}, status from "{namespace}".jobs')
        assert any("history_json" in row[0] for row in plan) == is_read


async def test_an_auditor_reads_the_views_and_nothing_else(postgres_server: Server, namespace: str) -> None:
    roles = Roles(postgres_server.url, namespace, GRANTS)
    roles.names["auditor"] = f"{namespace}_auditor"
    await roles.prepare(namespace)
    try:
        await roles.run(None, "CREATE ROLE auditor LOGIN PASSWORD 'secret'")
        await roles.run("psyqueue_owner", AUDIT, namespace)
        await roles.run("auditor", "SELECT * FROM psyqueue.jobs; SELECT * FROM psyqueue.failed_runs", namespace)
        for table in ("job", "body", "error", "meta"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await roles.run("auditor", f"SELECT * FROM psyqueue.{table}", namespace)
    finally:
        await roles.run(None, "DROP OWNED BY auditor; DROP ROLE auditor")
        await roles.drop()
