"""Jobs inside a transaction of the caller's own, on every kind of connection that `conn=` takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
import sqlalchemy.ext.asyncio as sa_async

from backends.postgres.callers import CALLERS, Caller, by_asyncpg, by_psycopg, by_psycopg_async, by_session
from backends.postgres.stores import LIMIT_S, beside, connected, opened
from psyqueue.backend import Idempotency, Limits, Unique
from psyqueue.errors import (
    IdConflict,
    InvalidOption,
    InvalidState,
    QueueFull,
    StoreBusy,
    StoreUnavailable,
    UnknownDependency,
)
from psyqueue.testing.conformance.handle import Store, ack, job
from support.kernel import next_turn
from support.servers import Server

Begun = Callable[..., AbstractAsyncContextManager[Caller]]
ISOLATIONS = ("read_committed", "repeatable_read", "serializable")
AWKWARD = "o'r\"d%s$1:x\\; drop — 注"
"""What a client that pastes or parses statements would stumble over."""


@pytest.fixture(params=CALLERS)
def caller_by(request: pytest.FixtureRequest) -> Begun:
    return CALLERS[request.param]


async def enqueue(store: Store, caller: Caller, *jobs: Any) -> Any:
    return await store.backend.bind(caller.given).enqueue(jobs)


# ── if and only if the caller commits ─────────────────────────────────────────────────────────────────────────────────
async def test_jobs_come_and_go_with_the_callers_own_rows(
    postgres_server: Server, namespace: str, caller_by: Begun
) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await connection.execute(f'create table "{namespace}".orders (id int)')
        for number, ending in ((1, "rollback"), (2, "commit")):
            async with caller_by(url) as caller:
                await caller.run(f'insert into "{namespace}".orders values ({number})')
                (made,) = await enqueue(store, caller, job(f"order-{number}"))
                assert (made.created, made.status) == (True, "pending")
                assert await store.status(f"order-{number}") is None
                await getattr(caller, ending)()
        assert await store.statuses("order-1", "order-2") == [None, "pending"]
        assert await connection.fetchval(f'select array_agg(id) from "{namespace}".orders') == [2]


async def test_every_field_of_a_job_gets_through(postgres_server: Server, namespace: str, caller_by: Begun) -> None:
    """Arrays, JSON, bytes and numbers beyond 32 bits, in the order and types of each library."""
    url = postgres_server.url
    plain = [
        job("a", queue=AWKWARD, payload=b'"\\u0000%s"', cold=b'{"meta":{"a":1}}', priority=-7, lane="l", max_lost=0),
        job("b", queue=AWKWARD, delay_ms=5_000_000_000, expires_in_ms=2**40, max_retries=9),
    ]
    rich = [
        job(AWKWARD, unique=Unique(key=AWKWARD), idempotency=Idempotency(key=AWKWARD, window_ms=2**40)),
        job("d", payload="🚚".encode(), unique=Unique(key="x")),
    ]
    async with opened(url, namespace) as store, opened(url, f"{namespace}_2") as other, caller_by(url) as caller:
        for jobs in (plain, rich):
            await store.enqueue(*jobs)
            made = await enqueue(other, caller, *jobs)
            assert [each.created for each in made] == [True, True]
        await caller.commit()
        ids = ["a", "b", AWKWARD, "d"]
        assert await other.backend.get(ids) == await store.backend.get(ids)


async def test_a_rolled_back_savepoint_takes_its_jobs_with_it(
    postgres_server: Server, namespace: str, caller_by: Begun
) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, caller_by(url) as caller:
        await enqueue(store, caller, job("a"))
        await caller.run("savepoint here")
        await enqueue(store, caller, job("b", unique=Unique(key="k")))
        await caller.run("rollback to savepoint here")
        await enqueue(store, caller, job("c", unique=Unique(key="k")))
        await caller.commit()
        assert await store.statuses("a", "b", "c") == ["pending", None, "pending"]


async def test_a_refused_call_leaves_the_callers_transaction_as_it_was(
    postgres_server: Server, namespace: str, caller_by: Begun
) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, caller_by(url) as caller:
        await store.add("a", digest=b"one")
        await enqueue(store, caller, job("b"))
        with pytest.raises(IdConflict):
            await enqueue(store, caller, job("c"), job("a", digest=b"two"))
        await enqueue(store, caller, job("d"))
        await caller.commit()
        assert await store.statuses("b", "c", "d") == ["pending", None, "pending"]


async def test_a_delivery_is_settled_with_the_callers_transaction(
    postgres_server: Server, namespace: str, caller_by: Begun
) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, caller_by(url) as caller:
        await store.add("a")
        delivery = await store.dequeue_one()
        (settled,) = await store.backend.bind(caller.given).settle("s", [ack(delivery, result=b"7")])
        assert (settled.verdict, settled.status) == ("ok", "completed")
        assert await store.status("a") == "active"
        await caller.commit()
        assert (await store.view("a")).result == b"7"


async def test_a_sleeping_worker_is_woken_by_the_callers_commit(
    postgres_server: Server, namespace: str, caller_by: Begun
) -> None:
    """Not by the call. Its own looks would find the job, too, so they are told nothing: it is asleep by then."""
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as looker, caller_by(url) as caller:
        asleep = asyncio.ensure_future(store.backend.wait(["q"], [], 60_000))
        async with asyncio.timeout(LIMIT_S):
            while not await looker.fetchval(f'select count(*) from "{namespace}".sleeper'):
                assert not asleep.done()
            await enqueue(store, caller, job("a"))
            assert not asleep.done()
            await caller.commit()
            assert await asleep


async def test_a_quiet_transaction_can_be_prepared_while_workers_sleep(own_servers: Any, namespace: str) -> None:
    """PostgreSQL prepares none that has sent a notice. Sleepers find the jobs, and the end of one, by their looks."""
    url = own_servers.postgres(settings=("max_prepared_transactions=4",)).url
    async with opened(url, namespace) as store, connected(url) as caller, connected(url) as looker:
        await store.add("held", "other")
        delivery = await store.dequeue_one("other")
        asleep = asyncio.ensure_future(store.backend.wait(["q"], [], 60_000))
        ended = asyncio.ensure_future(store.backend.wait([], ["held"], 60_000))
        async with asyncio.timeout(LIMIT_S):
            while await looker.fetchval(f'select count(*) from "{namespace}".sleeper') < 2:
                assert not asleep.done()
            await caller.execute("begin; set local psyqueue.quiet = 'on'")
            bound = store.backend.bind(caller)
            await bound.enqueue((job("a"),))
            await bound.enqueue((job("b"), job("c", unique=Unique(key="u"))))
            assert (await bound.settle("s", (ack(delivery),)))[0].verdict == "ok"
            await caller.execute("prepare transaction 'two'")
            await caller.execute("commit prepared 'two'")
            assert await asleep
            assert await ended


async def test_how_the_caller_writes_json_does_not_matter(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, by_asyncpg(url) as caller:
        for kind in ("json", "jsonb"):
            await caller.given.set_type_codec(kind, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        await enqueue(store, caller, job("a", unique=Unique(key="k")))
        await caller.commit()
        assert await store.status("a") == "pending"


async def test_one_call_is_one_statement(postgres_server: Server, namespace: str) -> None:
    """Nothing around the call, and nothing before it."""
    url = postgres_server.url
    async with opened(url, namespace) as store, by_asyncpg(url) as caller:
        await enqueue(store, caller, job("a"))  # asyncpg looks up the types of a connection once
        sent: list[str] = []
        caller.given.add_query_logger(lambda query: sent.append(query.query))
        await enqueue(store, caller, job("b"))
        await next_turn()
        assert len(sent) == 1
        await caller.rollback()


# ── beside others ─────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("ending", "created"), [("commit", False), ("rollback", True)])
@pytest.mark.parametrize("how", ["unique", "idempotency", "id"])
async def test_who_enqueues_the_same_waits_for_the_callers_end(
    postgres_server: Server, namespace: str, how: str, ending: str, created: bool
) -> None:
    url = postgres_server.url
    keys: dict[str, Any] = {
        "unique": {"unique": Unique(key="k")},
        "idempotency": {"idempotency": Idempotency(key="k", window_ms=60_000)},
        "id": {},
    }
    first = job("a", **keys[how])
    second = first if how == "id" else job("b", **keys[how])
    async with opened(url, namespace) as store, by_asyncpg(url) as caller:
        await enqueue(store, caller, first)
        ended = getattr(caller, ending)
        (made,) = await beside(url, namespace, store.enqueue(second), ended)
        assert (made.created, made.job_id) == (created, "b" if created and how != "id" else "a")


async def test_a_blocking_connection_does_not_block_the_loop(postgres_server: Server, namespace: str) -> None:
    """It waits for a key that another coroutine of the same loop holds, and will let go."""
    url = postgres_server.url
    async with opened(url, namespace) as store, by_asyncpg(url) as first, by_psycopg(url) as second:
        await enqueue(store, first, job("a", unique=Unique(key="k")))
        waits = enqueue(store, second, job("b", unique=Unique(key="k")))
        (made,) = await beside(url, namespace, waits, first.commit)
        assert (made.created, made.job_id) == (False, "a")


@pytest.mark.parametrize("by", [by_psycopg, by_session])
async def test_a_cancelled_call_is_over_before_the_connection_is_the_callers_again(
    postgres_server: Server, namespace: str, by: Begun
) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, by_asyncpg(url) as first, by(url) as second:
        await enqueue(store, first, job("a", unique=Unique(key="k")))
        waits = asyncio.ensure_future(enqueue(store, second, job("b", unique=Unique(key="k"))))

        async def cancel() -> None:
            waits.cancel()

        with pytest.raises(asyncio.CancelledError):
            await beside(url, namespace, waits, cancel)
        await second.rollback()
        await enqueue(store, second, job("c"))
        await second.commit()
        await first.rollback()
        assert await store.statuses("a", "b", "c") == [None, None, "pending"]


async def test_a_job_of_a_long_transaction_is_not_passed_over(postgres_server: Server, namespace: str) -> None:
    """Its number is lower than those of jobs that came, and went, before it was there."""
    url = postgres_server.url
    async with opened(url, namespace) as store, by_asyncpg(url) as caller:
        await enqueue(store, caller, job("early"))
        for number in range(3):
            await store.add(f"late-{number}")
            assert await store.run() == f"late-{number}"
        await store.backend.prune(100)
        await store.backend.promote(["q"], 100)
        await caller.commit()
        assert await store.run() == "early"


# ── isolation ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_a_job_goes_in_at_every_isolation(
    postgres_server: Server, namespace: str, caller_by: Begun, isolation: str
) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, caller_by(url, isolation) as caller:
        await caller.run("create temporary table seen as select 1")
        await store.add("other")
        await enqueue(store, caller, job("a"), job("b", unique=Unique(key="k")))
        await caller.commit()
        assert await store.statuses("a", "b") == ["pending", "pending"]


@pytest.mark.parametrize("isolation", ISOLATIONS[1:])
@pytest.mark.parametrize("how", ["unique", "idempotency", "id", "replace"])
async def test_what_a_transaction_is_too_old_to_see_is_no_second_job(
    postgres_server: Server, namespace: str, isolation: str, how: str
) -> None:
    url = postgres_server.url
    keys: dict[str, dict[str, Any]] = {
        "unique": {"unique": Unique(key="k")},
        "replace": {"unique": Unique(key="k", on_conflict="replace")},
        "idempotency": {"idempotency": Idempotency(key="k", window_ms=60_000)},
        "id": {},
    }
    async with opened(url, namespace) as store, by_psycopg_async(url, isolation) as caller:
        await caller.run("select 1")
        await store.enqueue(job("a", **keys[how]))
        with pytest.raises(StoreBusy, match="do the whole transaction again"):
            await enqueue(store, caller, job("a" if how == "id" else "b", **keys[how]))
        await caller.rollback()
        (found,) = await enqueue(store, caller, job("a" if how == "id" else "b", **keys[how]))
        assert (found.created, found.job_id) == (False, "a")


@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_a_full_queue_stays_within_its_limit(postgres_server: Server, namespace: str, isolation: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, by_asyncpg(url, isolation) as caller:
        await store.backend.put_limits(store.op(), [Limits(queue="q", pending_max=1)])
        await caller.run("select 1")
        await store.add("a")
        expected = QueueFull if isolation == "read_committed" else InvalidState
        with pytest.raises(expected):
            await enqueue(store, caller, job("b"))
        await enqueue(store, caller, job("c", queue="other"))
        await caller.commit()
        assert await store.statuses("b", "c") == [None, "pending"]


# ── connections that will not do ──────────────────────────────────────────────────────────────────────────────────────
async def test_a_transaction_that_failed_before_says_so(
    postgres_server: Server, namespace: str, caller_by: Begun
) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, caller_by(url) as caller:
        with pytest.raises((asyncpg.PostgresError, psycopg.Error, sa.exc.DBAPIError)):
            await caller.run("nonsense")
        with pytest.raises(InvalidState, match="roll it back"):
            await enqueue(store, caller, job("a"))
        await caller.rollback()


async def test_a_read_only_transaction_says_so_and_goes_on(
    postgres_server: Server, namespace: str, caller_by: Begun
) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, caller_by(url) as caller:
        await caller.run("set transaction read only")
        with pytest.raises(InvalidState, match="read-only"):
            await enqueue(store, caller, job("a"))
        await caller.run("select 1")
        await caller.rollback()


async def test_another_database_than_the_stores_is_refused(
    postgres_server: Server, namespace: str, caller_by: Begun
) -> None:
    """One without the schema, one with a store of the same name, and a copy of the store's own database."""
    url = postgres_server.url
    home = url.rpartition("/")[0]
    async with connected(url) as owner:
        for name in ("a", "b"):
            await owner.execute(f'create database "{namespace}_{name}"')
        try:
            async with opened(f"{home}/{namespace}_a", namespace):
                pass
            await owner.execute(f'create database "{namespace}_c" template "{namespace}_a"')
            async with opened(f"{home}/{namespace}_a", namespace) as store:
                for foreign in ("b", "c"):
                    async with caller_by(f"{home}/{namespace}_{foreign}") as caller:
                        with pytest.raises(InvalidOption, match="not open on the database") as refused:
                            await enqueue(store, caller, job("a"))
                        assert refused.value.option == "conn"
                        await caller.rollback()
            async with (
                opened(f"{home}/{namespace}_b", namespace) as store,
                caller_by(f"{home}/{namespace}_a") as caller,
            ):
                with pytest.raises(InvalidOption, match="not open on the database"):
                    await enqueue(store, caller, job("a"))
                await caller.run("select 1")
                await caller.rollback()
        finally:
            for name in ("a", "b", "c"):
                await owner.execute(f'drop database if exists "{namespace}_{name}" with (force)')


async def test_a_server_that_was_started_anew_is_known_again(own_servers: Any, namespace: str) -> None:
    server = own_servers.postgres(durable=True)
    async with opened(server.url, namespace) as store:
        async with by_asyncpg(server.url) as caller:
            await enqueue(store, caller, job("a"))
            await caller.commit()
        server.kill()
        server.restart()
        with pytest.raises(StoreUnavailable):
            await store.status("a")
        async with by_asyncpg(server.url) as caller:
            await enqueue(store, caller, job("b"))
            await caller.commit()
        assert await store.statuses("a", "b") == ["pending", "pending"]


async def test_a_connection_without_a_transaction_is_told_to_begin_one(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    engines = [
        sa_async.create_async_engine(url.replace("postgresql:", f"postgresql+{each}:"), isolation_level="AUTOCOMMIT")
        for each in ("asyncpg", "psycopg")
    ]
    async with (
        opened(url, namespace) as store,
        connected(url) as by_asyncpg,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as by_psycopg_async,
        engines[0].connect() as alchemy,
        engines[1].connect() as alchemy_psycopg,
    ):
        with psycopg.connect(url, autocommit=True) as by_psycopg, engine.connect() as by_alchemy:
            for connection in (by_asyncpg, by_psycopg, by_psycopg_async, by_alchemy, alchemy, alchemy_psycopg):
                with pytest.raises(InvalidState, match="begin one"):
                    await store.backend.bind(connection).enqueue((job("a"),))
            with by_psycopg.transaction():
                await store.backend.bind(by_psycopg).enqueue((job("b"),))
        assert await store.statuses("a", "b") == [None, "pending"]
    engine.dispose()
    for each in engines:
        await each.dispose()


async def test_a_closed_connection_is_told_so(postgres_server: Server, namespace: str, caller_by: Begun) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store:
        async with caller_by(url) as caller:
            bound = store.backend.bind(caller.given)
            await enqueue(store, caller, job("a"))
            await caller.rollback()
        if "scoped" in str(caller.given):
            return  # a registry opens another session
        if isinstance(caller.given, sa.orm.Session | sa_async.AsyncSession):
            await bound.enqueue((job("a"),))  # a session begins anew, on another connection
            caller.given.close() if isinstance(caller.given, sa.orm.Session) else await caller.given.close()
            return
        with pytest.raises(InvalidState, match=r"closed|released"):
            await bound.enqueue((job("a"),))


async def test_a_connection_that_somebody_cut_says_so(
    postgres_server: Server, namespace: str, caller_by: Begun
) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as killer:

        async def late() -> None:
            async with caller_by(url) as caller:
                await caller.run(f"set application_name to '{namespace}'")
                await killer.execute(
                    "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = $1",
                    namespace,
                )
                await enqueue(store, caller, job("a"))

        # Which of them: that depends on whether the library has noticed already.
        with pytest.raises((StoreUnavailable, InvalidState), match=r"nothing was written|closed|released") as lost:
            await late()
        assert getattr(lost.value, "outcome", "refused") == "refused"
        assert await store.status("a") is None


async def test_a_connection_that_is_in_use_says_so(postgres_server: Server, namespace: str) -> None:
    """Where psycopg waits for its turn, asyncpg refuses."""
    url = postgres_server.url
    async with opened(url, namespace) as store, by_asyncpg(url) as caller, connected(url) as other:
        await other.execute("begin; select pg_advisory_xact_lock(7)")
        busy = asyncio.ensure_future(caller.run("select pg_advisory_xact_lock(7)"))
        async with asyncio.timeout(LIMIT_S):
            while not await other.fetchval("select count(*) from pg_locks where locktype = 'advisory' and not granted"):
                pass
            with pytest.raises(InvalidState, match="another operation is in progress"):
                await enqueue(store, caller, job("a"))
            await other.execute("commit")
            await busy


async def test_a_statement_timeout_of_the_caller_is_no_defect(
    postgres_server: Server, namespace: str, caller_by: Begun
) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, by_asyncpg(url) as first, caller_by(url) as caller:
        await enqueue(store, first, job("a", unique=Unique(key="k")))
        for limit in ("lock_timeout", "statement_timeout"):
            await caller.run(f"set local {limit} = '50ms'")
            with pytest.raises(StoreBusy, match=r"too long|do the whole transaction again"):
                await enqueue(store, caller, job("b", unique=Unique(key="k")))
        await caller.rollback()
        await first.rollback()


async def test_other_refusals_are_those_of_every_enqueue(
    postgres_server: Server, namespace: str, caller_by: Begun
) -> None:
    from psyqueue.backend import Dependency

    url = postgres_server.url
    async with opened(url, namespace) as store, caller_by(url) as caller:
        with pytest.raises(UnknownDependency) as refused:
            await enqueue(store, caller, job("a", needs=(Dependency(job_id=AWKWARD),)))
        assert refused.value.parent_id == AWKWARD
        await caller.rollback()


@pytest.mark.parametrize("connection", [None, "postgresql://", asyncpg], ids=["none", "text", "module"])
async def test_what_is_no_connection_is_refused_at_once(
    postgres_server: Server, namespace: str, connection: object
) -> None:
    async with opened(postgres_server.url, namespace) as store:
        with pytest.raises(InvalidOption, match="is no connection that a job could be enqueued on"):
            store.backend.bind(connection)


async def test_sqlalchemy_over_something_else_is_refused(postgres_server: Server, namespace: str) -> None:
    engine = sa.create_engine("sqlite://")
    async with opened(postgres_server.url, namespace) as store:
        with engine.connect() as connection, pytest.raises(InvalidOption, match=r"sqlite\+pysqlite"):
            await store.backend.bind(connection).enqueue((job("a"),))
    engine.dispose()
