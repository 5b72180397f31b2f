"""One writer, group commit, durability as promised. How a process shares its file is SQLite's own affair."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from backends.sqlite.stores import counts, opened
from psyqueue.backend import Effects, Op
from psyqueue.backends._sqlite import SqliteBackend, SqliteOptions, writer
from psyqueue.backends._sqlite.file_lock import FileLock
from psyqueue.backends._sqlite.step import Step
from psyqueue.errors import IdConflict, StoreBusy, StoreUnavailable
from psyqueue.testing.conformance.handle import Store, ack, job, put


def client_of(store: Store) -> Any:
    assert isinstance(store.backend, SqliteBackend)
    return store.backend._client


def hold_writer(store: Store) -> threading.Event:
    """The writer's next call waits for the event: whatever is submitted meanwhile forms one group."""
    go = threading.Event()
    client_of(store)._writer.submit(writer.Call(lambda step: go.wait(10), lambda call: None))
    return go


def commits(store: Store) -> list[str]:
    """Filled with the COMMITs of the writer's connection from now on."""
    seen: list[str] = []
    client_of(store)._writer._connection.set_trace_callback(lambda sql: seen.append(sql) if sql == "COMMIT" else None)
    return seen


def open_below(folder: Path) -> list[Path]:
    """What this process has open there."""
    handles = [each for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return [file for each in handles if (file := each.readlink()).is_relative_to(folder)]


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
async def test_durability_is_what_sqlite_was_really_told(tmp_path: Path, durability: str, level: int) -> None:
    async with opened(tmp_path / "jobs.db", durability=durability) as store:
        (found,) = client_of(store)._writer._connection.execute("PRAGMA synchronous").fetchone()
        (mode,) = client_of(store)._writer._connection.execute("PRAGMA journal_mode").fetchone()
        assert (found, mode) == (level, "wal")
        info = await store.backend.info()
        assert info.process_crash == "safe"
        assert info.power_loss == {"full": "safe", "normal": "bounded_loss"}[durability]


async def test_the_default_survives_a_power_loss(tmp_path: Path) -> None:
    backend = SqliteBackend(SqliteOptions(path=tmp_path / "jobs.db"))
    assert (await backend.connect()).power_loss == "safe"
    await backend.disconnect()


async def test_a_store_in_memory_says_that_it_survives_nothing() -> None:
    async with opened(":memory:") as store:
        info = await store.backend.info()
        assert (info.process_crash, info.power_loss) == ("lost", "lost")
        assert not store.backend.capabilities.wakes_across_processes


async def test_calls_that_wait_together_share_one_commit(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        go = hold_writer(store)
        seen = commits(store)
        calls = [store.backend.enqueue(Op("c", number, 1), [job(f"{number}")]) for number in range(20)]
        together = asyncio.gather(*calls)
        await asyncio.sleep(0)
        go.set()
        replies = await together
        assert all(reply[0].created for reply in replies)
        assert len(seen) <= 2  # the one that was held, and all others


async def test_a_refused_call_takes_nothing_of_its_group_along(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        await store.add("taken", digest=b"one")
        go = hold_writer(store)
        bad = [job("lost-1"), job("taken", digest=b"two"), job("lost-2")]
        effects = Effects(writes=(put("k"),))
        calls = [
            store.backend.enqueue(Op("c", 1, 1), [job("a")]),
            store.backend.enqueue(Op("c", 2, 1), bad, effects),
            store.backend.enqueue(Op("c", 3, 1), [job("b")]),
        ]
        together = asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0)
        go.set()
        a, refused, b = await together
        assert isinstance(refused, IdConflict)
        assert not isinstance(a, BaseException)
        assert not isinstance(b, BaseException)
        views = await store.backend.get(["a", "b", "lost-1", "lost-2"])
        assert [view is not None for view in views] == [True, True, False, False]
        assert await store.backend.read_state(["k"]) == (None,)
        assert await store.broken() == []


async def test_when_one_call_makes_sqlite_give_the_whole_group_up_the_others_still_go_in(tmp_path: Path) -> None:
    """What a full disk does inside a statement: SQLite rolls back more than the call that met it."""
    async with opened(tmp_path / "jobs.db") as store:
        go = hold_writer(store)

        def give_all_up(step: Step) -> None:
            step.run("ROLLBACK")
            raise sqlite3.OperationalError("as if the disk were full")

        calls = [
            store.backend.enqueue(Op("c", 1, 1), [job("a")]),
            client_of(store).write(give_all_up),
            store.backend.enqueue(Op("c", 3, 1), [job("b")]),
        ]
        together = asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0)
        go.set()
        a, failed, b = await together
        assert isinstance(failed, StoreUnavailable)
        assert not isinstance(a, BaseException)
        assert not isinstance(b, BaseException)
        assert await counts(store, "q") == {"pending": 2}


async def test_a_cancelled_caller_breaks_nothing_and_its_call_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        go = hold_writer(store)
        calls = [asyncio.ensure_future(store.backend.enqueue(Op("c", n, 1), [job(f"{n}")])) for n in range(3)]
        await asyncio.sleep(0)
        calls[1].cancel()
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(calls[0], calls[2])
        assert calls[1].cancelled()
        assert (await store.backend.enqueue(Op("c", 1, 1), [job("1")]))[0].created  # the same op: its first reply
        assert await counts(store, "q") == {"pending": 3}


async def test_whoever_looks_does_not_wait_for_whoever_writes(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        await store.add("a")
        go = hold_writer(store)
        try:
            async with asyncio.timeout(5):
                assert (await store.view("a")).status == "pending"
                assert await counts(store, "q") == {"pending": 1}
        finally:
            go.set()


async def test_a_turn_that_does_not_come_is_answered_in_time_and_never_run(tmp_path: Path) -> None:
    """Another process holds the turn at writing and does not move, as one that was stopped would."""
    async with opened(tmp_path / "jobs.db", busy_timeout="300ms") as store, opened(tmp_path / "jobs.db") as other:
        await store.open_session()
        lock = client_of(other)._lock
        await asyncio.get_running_loop().run_in_executor(None, lock.acquire)
        with pytest.raises(StoreBusy):
            await store.add("a")
        keeper = store.backend.keeper()
        with pytest.raises(StoreBusy):
            await asyncio.get_running_loop().run_in_executor(None, keeper.renew, "s")
        lock.release()
        assert (await asyncio.get_running_loop().run_in_executor(None, keeper.renew, "s")).open
        keeper.close()
        assert (await store.backend.get(["a"])) == (None,)
        assert (await store.add("a")).created


async def test_what_was_accepted_is_finished_before_the_store_is_left(tmp_path: Path) -> None:
    store = Store(SqliteBackend(SqliteOptions(path=tmp_path / "jobs.db", durability="normal")))
    await store.backend.connect()
    go = hold_writer(store)
    accepted = asyncio.ensure_future(store.add("a"))
    await asyncio.sleep(0)
    leaving = asyncio.ensure_future(store.backend.disconnect())
    await asyncio.sleep(0)
    go.set()
    await leaving
    assert (await accepted).created
    assert not (tmp_path / "jobs.db-wal").exists()
    await store.backend.disconnect()


async def test_a_store_can_be_opened_again_and_by_several_at_once(tmp_path: Path) -> None:
    backend = SqliteBackend(SqliteOptions(path=tmp_path / "jobs.db", durability="normal", busy_timeout="200ms"))
    store = Store(backend)
    for name in ("a", "b"):
        await asyncio.gather(backend.connect(), backend.connect())
        assert len([each for each in threading.enumerate() if each.name == "psyqueue-sqlite-writer"]) == 1
        assert (await store.add(name)).created
        other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy):
            await store.add("busy")
        other.close()
        await backend.disconnect()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are found there")
async def test_a_connect_that_is_cut_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that gets its signal while it waits for its turn to open the file."""
    loop = asyncio.get_running_loop()
    backend = SqliteBackend(SqliteOptions(path=tmp_path / "jobs.db", durability="normal"))
    waits = threading.Event()

    def wait(lock: FileLock, _: int) -> None:
        waits.set()
        lock.acquire()

    monkeypatch.setattr(FileLock, "_wait", wait)
    turn = FileLock(str(tmp_path / "jobs.db-lock"), "jobs.db")
    turn.acquire()
    connecting = asyncio.ensure_future(backend.connect())
    await loop.run_in_executor(None, waits.wait)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    gc.disable()  # else it may close what was forgotten
    try:
        turn.close()
        await loop.shutdown_default_executor()  # what goes on there has ended, and said so
        assert open_below(tmp_path) == []
    finally:
        gc.enable()


async def test_the_wal_is_cut_back_after_a_long_reader_let_it_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "WAL_BYTES_MAX", 100_000)
    monkeypatch.setattr(writer, "GROUPS_BETWEEN_LOOKS", 1)
    async with opened(tmp_path / "jobs.db") as store:
        reading = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM psyqueue_job").fetchone()
        await store.fill(500)
        await store.fill(1, "r")
        assert (tmp_path / "jobs.db-wal").stat().st_size > 100_000
        reading.close()
        for number in range(50):  # it is cut after a commit was answered, so a look right then may be too early
            await store.add(f"s-{number}")
            if (tmp_path / "jobs.db-wal").stat().st_size < 100_000:
                return
        pytest.fail("the WAL was never cut back")


# ── what one call costs, in statements: a guard that does not depend on the clock ─────────────────────────────────────
async def test_a_call_costs_the_same_few_statements_however_many_jobs_it_carries(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        await store.open_session()
        seen: list[str] = []
        client_of(store)._writer._connection.set_trace_callback(seen.append)

        async def costs(jobs: int) -> tuple[int, int]:
            seen.clear()
            await store.enqueue(*(job(f"{jobs}-{number}") for number in range(jobs)))
            # executemany runs its statement once a row: only the bodies go in one by one.
            enqueued = len([each for each in seen if not each.startswith("INSERT OR IGNORE INTO psyqueue_body")])
            held = await store.dequeue(count=jobs)
            assert len(held) == jobs
            seen.clear()
            await store.settle(*(ack(each) for each in held), fetch=store.fetch(count=jobs))
            return enqueued, len(seen)

        few, many = await costs(2), await costs(200)
        assert few == many
        assert few[0] <= 10
        assert few[1] <= 12
