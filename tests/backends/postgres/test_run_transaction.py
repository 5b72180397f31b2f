"""`ctx.transaction()`: what a handler writes and the end of its job are committed together, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from backends.postgres.stores import connected
from psyqueue import Context, DeadLetter, InvalidState, PsyQueue, Snooze
from psyqueue.backends import memory, postgres, sqlite
from psyqueue.backends._postgres import transaction
from psyqueue.errors import StoreUnavailable
from support.servers import Server
from worker.process_handlers import enter_transaction
from worker.rig import Rig, answers_after, renewed_often, soon, started, turns, until

QUICK: dict[str, Any] = {"queue": "q", "backoff": "fixed", "backoff_base": "1ms", "backoff_jitter": False}


class Shop:
    """A started queue, a table beside its jobs, and a connection that sees what others see."""

    def __init__(self, rig: Rig, looker: asyncpg.Connection, table: str) -> None:
        self.rig = rig
        self.q = rig.q
        self.looker = looker
        self.table = table

    async def write(self, connection: Any, number: int = 1) -> None:
        await connection.execute(f"insert into {self.table} values ($1)", number)

    async def rows(self) -> list[int]:
        return [row[0] for row in await self.looker.fetch(f"select number from {self.table} order by 1")]

    async def drain(self) -> None:
        """Run what is pending, and what failed, until nothing is left. The store's clock is moved past back-offs."""
        while await soon(self.q.process_next("q"), 60):
            await self.rig.advance(1)


@pytest.fixture
async def shop(postgres_server: Server, namespace: str) -> AsyncIterator[Shop]:
    url = postgres_server.url
    rig = Rig(postgres(connection_string=url, schema=namespace, test_clock=True, statement_timeout="20s"))
    async with started(rig), connected(url) as looker:
        table = f'"{namespace}".orders'
        await looker.execute(
            f"create table {table} (number int, constraint once unique (number) deferrable initially deferred)"
        )
        yield Shop(rig, looker, table)
        assert (await rig.store.check(None, 100))[0] == ()
        idle = "select count(*) from pg_stat_activity where state like 'idle in transaction%' and query like $1"
        async with asyncio.timeout(20):
            while await looker.fetchval(idle, f"%{namespace}%"):
                pass


async def test_writes_and_ack_are_committed_together(shop: Shop) -> None:
    seen: list[Any] = []

    @shop.q.handle("order", **QUICK)
    async def order(ctx: Context, number: int) -> int:
        async with ctx.transaction() as connection:
            await shop.write(connection, number)
        seen.append((await shop.rows(), await shop.rig.status(ctx.job.id)))
        ctx.progress("written")
        ctx.enqueue("mail", {"to": "a"}, queue="later")
        return number * 2

    job = await order.enqueue(7)
    await shop.drain()
    assert seen == [([], "active")]
    assert await shop.rows() == [7]
    view = await shop.rig.view(job)
    assert (view.status, view.result, view.progress) == ("completed", 14, "written")
    assert [each.parent_id for each in await shop.q.jobs(queue="later")] == [job.id]
    assert shop.rig.told.types(job) == ["job:enqueued", "job:started", "job:completed"]


async def test_a_worker_commits_many_side_by_side_without_a_call_of_its_own(shop: Shop) -> None:
    @shop.q.handle("order", **QUICK)
    async def order(ctx: Context, number: int) -> None:
        async with ctx.transaction() as connection:
            await shop.write(connection, number)

    jobs = await shop.q.enqueue_bulk([order.build(number) for number in range(40)])
    shop.rig.worker("q", concurrency=20)
    assert await shop.rig.ended(*jobs) == ["completed"] * 40
    assert await shop.rows() == list(range(40))
    await shop.rig.told.first("job:completed", count=40)
    assert len(shop.rig.told.of("job:completed")) == 40


async def test_run_that_commits_while_the_store_counts_is_no_stray(shop: Shop) -> None:
    """The count was taken before its commit, and comes after it."""
    counted, go = asyncio.Event(), asyncio.Event()

    @shop.q.handle("order", **QUICK)
    async def order(ctx: Context, number: int) -> None:
        async with ctx.transaction() as connection:
            await shop.write(connection, number)
            await counted.wait()

    @shop.q.handle("other", **QUICK)
    async def other() -> None: ...

    job = await order.enqueue(1)
    worker = shop.rig.worker("q", concurrency=2)
    await shop.rig.told.first("job:started", job.id)
    session_id = worker._settler.session_id
    shop.rig.faults.always["settle"] = answers_after(go, counted)
    worker._slots.is_in_doubt = True
    late = await other.enqueue()
    async with asyncio.timeout(20):
        while await shop.rows() != [1]:
            pass
    await until(lambda: worker._slots.held == 0)
    del shop.rig.faults.always["settle"]
    go.set()
    assert await shop.rig.ended(job, late) == ["completed"] * 2
    assert (worker._slots.unknown, worker._settler.session_id) == (0, session_id)


async def test_progress_of_a_run_that_cannot_be_committed_is_kept(shop: Shop) -> None:
    @shop.q.handle("order", max_retries=0, **QUICK)
    async def order(ctx: Context, number: int) -> None:
        async with ctx.transaction() as connection:
            await shop.write(connection)
            await shop.write(connection)
        await report_in_a_pause(shop, ctx)

    job = await order.enqueue(1)
    await shop.drain()
    view = await shop.rig.view(job)
    assert (view.status, view.progress) == ("dead", "second")
    assert shop.rig.told.types(job) == ["job:enqueued", "job:started", "job:failed", "job:dead"]


async def report_in_a_pause(shop: Shop, ctx: Context) -> None:
    """Twice: the second value has to wait for a while, as the first one was sent just now."""
    ctx.progress("first")
    while (await shop.rig.view(ctx.job.id)).progress != "first":
        pass
    ctx.progress("second")
    await turns(2)


async def test_a_job_enqueued_on_the_connection_comes_with_it(shop: Shop) -> None:
    @shop.q.handle("order", **QUICK)
    async def order(ctx: Context, number: int) -> None:
        async with ctx.transaction() as connection:
            await shop.q.enqueue("mail", {}, id=f"mail-{ctx.attempt}", queue="later", conn=connection)
        if ctx.attempt == 1:
            raise OSError("once")

    await order.enqueue(1)
    await shop.drain()
    assert [each.id for each in await shop.q.jobs(queue="later")] == ["mail-2"]


@pytest.mark.parametrize("where", ["inside", "after"])
async def test_a_handler_that_raises_rolls_back_and_is_retried(shop: Shop, where: str) -> None:
    @shop.q.handle("order", **QUICK)
    async def order(ctx: Context, number: int) -> None:
        async with ctx.transaction() as connection:
            await shop.write(connection, number)
            if where == "inside" and ctx.attempt == 1:
                raise OSError("once")
        if ctx.attempt == 1:
            raise OSError("once")

    job = await order.enqueue(1)
    await shop.drain()
    assert await shop.rows() == [1]
    assert (await shop.rig.view(job)).attempt == 2


@pytest.mark.parametrize(
    ("verdict", "status"), [(DeadLetter("no"), "dead"), (Snooze("1h"), "scheduled"), (float("nan"), "dead")]
)
async def test_what_is_no_success_rolls_back(shop: Shop, verdict: Any, status: str) -> None:
    @shop.q.handle("order", **QUICK)
    async def order(ctx: Context, number: int) -> Any:
        async with ctx.transaction() as connection:
            await shop.write(connection, number)
        return verdict

    job = await order.enqueue(1)
    await shop.q.process_next("q")
    assert await shop.rows() == []
    assert await shop.rig.status(job) == status


async def test_an_error_that_the_handler_sees_to_leaves_room_for_another_transaction(shop: Shop) -> None:
    @shop.q.handle("order", **QUICK)
    async def order(ctx: Context, number: int) -> None:
        async def mistake() -> None:
            async with ctx.transaction() as connection:
                await shop.write(connection, 1)
                await connection.execute("nonsense")

        with pytest.raises(asyncpg.PostgresError):
            await mistake()
        async with ctx.transaction() as connection:
            await shop.write(connection, 2)
            with pytest.raises(asyncpg.PostgresError):
                async with connection.transaction():
                    await connection.execute("nonsense")
        with pytest.raises(InvalidState, match="has opened it before"):
            async with ctx.transaction():
                pass

    job = await order.enqueue(1)
    await shop.drain()
    assert await shop.rows() == [2]
    assert await shop.rig.status(job) == "completed"


@pytest.mark.parametrize("how", ["swallowed", "ended", "deferred"])
async def test_what_cannot_be_committed_is_a_failed_run(shop: Shop, how: str) -> None:
    """An error that was swallowed, a transaction that the handler ended itself, a constraint that is checked last."""

    @shop.q.handle("order", max_retries=0, **QUICK)
    async def order(ctx: Context, number: int) -> None:
        async with ctx.transaction() as connection:
            await shop.write(connection)
            if how == "swallowed":
                with pytest.raises(asyncpg.PostgresError):
                    await connection.execute("nonsense")
            elif how == "ended":
                await connection.execute("rollback")
            else:
                await shop.write(connection)

    job = await order.enqueue(1)
    await shop.drain()
    view = await shop.rig.view(job)
    assert (view.status, view.errors[-1]["code"]) == ("dead", "INVALID_STATE")
    assert await shop.rows() == []


async def test_a_lost_lease_refuses_the_commit(shop: Shop) -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    @shop.q.handle("order", **QUICK)
    async def order(ctx: Context, number: int) -> None:
        async with ctx.transaction() as connection:
            await shop.write(connection, ctx.fence)
        if ctx.fence == 1:
            entered.set()
            await go.wait()

    job = await order.enqueue(1)
    run = asyncio.ensure_future(shop.q.process_next("q"))
    await soon(entered.wait())
    await shop.rig.lose_sessions()
    go.set()
    await soon(run)
    assert await shop.rows() == []
    assert await shop.rig.status(job) == "pending"
    await shop.drain()
    assert await shop.rows() == [2]
    assert (await shop.rig.view(job)).lost == 1


async def test_a_job_taken_by_another_refuses_the_commit(shop: Shop) -> None:
    """The session lives on, the delivery is not its own any more."""
    entered, go = asyncio.Event(), asyncio.Event()

    @shop.q.handle("order", **QUICK)
    async def order(ctx: Context, number: int) -> None:
        async with ctx.transaction() as connection:
            await shop.write(connection, ctx.fence)
        entered.set()
        await go.wait()

    job = await order.enqueue(1)
    shop.rig.worker("q")
    await soon(entered.wait())
    await shop.looker.execute(f"update {shop.table.replace('orders', 'job')} set token = 'other' where id = $1", job.id)
    go.set()
    await soon(shop.rig.told.first("job:lease-lost", job))
    assert await shop.rows() == []
    await shop.looker.execute(
        f"update {shop.table.replace('orders', 'job')} set status = 6, session = null, completed_at_ms = 1"
    )


async def test_a_cancelled_run_rolls_back(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = asyncio.Event()

    @shop.q.handle("order", **QUICK)
    async def order(ctx: Context, number: int) -> None:
        async with ctx.transaction() as connection:
            await shop.write(connection)
        entered.set()
        await asyncio.Event().wait()

    job = await order.enqueue(1)
    shop.rig.worker("q", lease_ms=renewed_often(monkeypatch))
    await soon(entered.wait())
    await job.cancel()
    assert await shop.rig.ended(job) == ["cancelled"]
    assert await shop.rows() == []


@pytest.mark.parametrize("moment", ["open", "settled", "committed"])
async def test_a_connection_cut_at_the_commit_leaves_both_or_none(
    shop: Shop, postgres_server: Server, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What became of the commit is unknown to the worker. The run is tried again only if it was not done."""
    pids: list[int] = []

    def kill() -> None:
        with psycopg.connect(postgres_server.url) as killer:
            killer.execute("select pg_terminate_backend(%s, 5000)", [pids[0]])

    def reached(name: str) -> None:
        if name != f"postgres.transaction.{moment}" or len(pids) > 1:
            return
        kill()
        if moment == "committed":
            raise StoreUnavailable("the reply to the commit was lost")

    @shop.q.handle("order", fatal=StoreUnavailable, **QUICK)
    async def order(ctx: Context, number: int) -> None:
        async with ctx.transaction() as connection:
            await shop.write(connection, ctx.attempt)
            pids.append(connection.get_server_pid())
        reached("postgres.transaction.open")

    monkeypatch.setattr(transaction, "failpoint", reached)
    job = await order.enqueue(1)
    await shop.drain()
    assert await shop.rig.status(job) == "completed"
    assert await shop.rows() == ([1] if moment == "committed" else [2])


async def test_what_a_handler_sets_on_its_connection_does_not_reach_the_next(shop: Shop) -> None:
    seen: list[str] = []

    @shop.q.handle("order", **QUICK)
    async def order(ctx: Context, number: int) -> None:
        async with ctx.transaction() as connection:
            seen.append(await connection.fetchval("show search_path"))
            await connection.execute("set search_path to elsewhere")

    for number in range(2):
        await order.enqueue(number)
    await shop.drain()
    assert seen == ['"$user", public'] * 2


async def test_a_stray_coroutine_in_the_block_is_refused_and_rolled_back(shop: Shop) -> None:
    left, strays = asyncio.Event(), []

    @shop.q.handle("order", max_retries=0, **QUICK)
    async def order(ctx: Context, number: int) -> None:
        entered = asyncio.Event()

        async def stray() -> None:
            async with ctx.transaction() as connection:
                await shop.write(connection)
                entered.set()
                await left.wait()

        strays.append(asyncio.ensure_future(stray()))
        await entered.wait()

    job = await order.enqueue(1)
    await shop.drain()
    left.set()
    await soon(strays[0])
    assert await shop.rig.status(job) == "dead"
    assert await shop.rows() == []


@pytest.mark.parametrize("mode", ["thread", "process"])
async def test_only_a_handler_on_the_loop_can_have_it(shop: Shop, mode: Any) -> None:
    shop.q.handle("order", enter_transaction, mode=mode, max_retries=0, **QUICK)
    job = await shop.q.enqueue("order", {})
    await shop.drain()
    error = (await shop.rig.view(job)).errors[-1]
    assert (error.get("code"), "async def" in error["message"]) == ("INVALID_STATE", True), error


async def test_a_pool_of_the_callers_own_gives_the_connection(postgres_server: Server, namespace: str) -> None:
    """With what its `init` set up."""
    async with asyncpg.create_pool(
        postgres_server.url, min_size=1, max_size=3, server_settings={"bytea_output": "escape"}
    ) as pool:
        rig = Rig(postgres(connection_string=postgres_server.url, schema=namespace, pool=pool, test_clock=True))
        seen = []

        @rig.q.handle("order", **QUICK)
        async def order(ctx: Context) -> None:
            async with ctx.transaction() as connection:
                seen.append(await connection.fetchval("show bytea_output"))

        async with started(rig):
            job = await order.enqueue()
            await soon(rig.q.process_next("q"))
            assert await rig.status(job) == "completed"
        assert seen == ["escape"]
        assert pool.get_idle_size() == pool.get_size()


@pytest.mark.parametrize("store", [memory, sqlite], ids=["memory", "sqlite"])
async def test_a_store_without_transactions_names_the_alternatives(store: Any, tmp_path: Path) -> None:
    q = PsyQueue().use(store() if store is memory else store(path=tmp_path / "jobs.db"))

    @q.handle("order", max_retries=0, queue="q")
    async def order(ctx: Context) -> None:
        async with ctx.transaction():
            pass

    async with q:
        job = await order.enqueue()
        await q.process_next("q")
        view = await job.refresh()
    error = view.errors[-1]
    assert error["code"] == "INVALID_STATE"
    assert all(word in error["message"] for word in ("ctx.job.id", "ctx.fence", "ctx.enqueue", "PostgreSQL"))
