"""Jobs inside a transaction of the caller's own: `sqlite3` connections are SQLite's own kind."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from backends.sqlite.stores import counts, opened
from psyqueue.errors import IdConflict, InvalidOption, InvalidState, StoreBusy
from psyqueue.testing.conformance.handle import ack, job


async def test_jobs_come_and_go_with_the_callers_own_rows(tmp_path: Path) -> None:
    async with opened(tmp_path / "app.db") as store:
        connection = sqlite3.connect(tmp_path / "app.db")
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        for number, ending in ((1, connection.rollback), (2, connection.commit)):
            connection.execute("INSERT INTO orders VALUES (?)", (number,))
            await store.backend.bind(connection).enqueue([job(f"order-{number}")])
            assert await counts(store, "q") == {}
            ending()
        assert connection.execute("SELECT id FROM orders").fetchall() == [(2,)]
        connection.close()
        assert await counts(store, "q") == {"pending": 1}
        assert await store.broken() == []


async def test_a_delivery_is_settled_with_the_callers_own_rows(tmp_path: Path) -> None:
    async with opened(tmp_path / "app.db") as store:
        await store.add("a")
        delivery = await store.dequeue_one()
        connection = sqlite3.connect(tmp_path / "app.db")
        (settled,) = await store.backend.bind(connection).settle("s", [ack(delivery)])
        assert (settled.verdict, settled.status) == ("ok", "completed")
        assert connection.in_transaction
        assert (await store.view("a")).status == "active"
        connection.execute("COMMIT")
        connection.close()
        assert (await store.view("a")).status == "completed"


MODES: list[dict[str, Any]] = [{"isolation_level": None}]
if sys.version_info >= (3, 12):
    MODES.append({"autocommit": True})


@pytest.mark.parametrize("mode", MODES, ids="-".join)
async def test_no_transaction_is_begun_on_a_connection_whose_caller_commits_each_statement(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    """Django outside of `atomic()`: nobody would end it, the job would never be, and nobody else could write."""
    async with opened(tmp_path / "app.db", busy_timeout="100ms") as store:
        connection = sqlite3.connect(tmp_path / "app.db", **mode)
        with pytest.raises(InvalidState, match="in no transaction: begin one"):
            await store.backend.bind(connection).enqueue([job("a")])
        assert not connection.in_transaction
        await store.add("b")
        connection.execute("BEGIN IMMEDIATE")
        await store.backend.bind(connection).enqueue([job("a")])
        connection.execute("COMMIT")
        connection.close()
        assert await counts(store, "q") == {"pending": 2}


async def test_a_refused_call_leaves_the_callers_transaction_as_it_was(tmp_path: Path) -> None:
    async with opened(tmp_path / "app.db") as store:
        await store.add("a", digest=b"one")
        connection = sqlite3.connect(tmp_path / "app.db")
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO orders VALUES (1)")
        with pytest.raises(IdConflict):
            await store.backend.bind(connection).enqueue([job("b"), job("a", digest=b"two")])
        connection.commit()
        assert connection.execute("SELECT id FROM orders").fetchall() == [(1,)]
        connection.close()
        assert await counts(store, "q") == {"pending": 1}


async def test_the_callers_way_of_seeing_rows_does_not_matter(tmp_path: Path) -> None:
    async with opened(tmp_path / "app.db") as store:
        connection = sqlite3.connect(tmp_path / "app.db")
        factory = connection.row_factory = lambda cursor, row: {"row": row}
        connection.text_factory = bytes
        await store.backend.bind(connection).enqueue([job("a")])
        connection.commit()
        assert (connection.row_factory, connection.text_factory) == (factory, bytes)
        connection.close()
        assert (await store.view("a")).status == "pending"


async def test_whoever_forgets_conn_inside_a_transaction_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path / "app.db", busy_timeout="100ms") as store:
        connection = sqlite3.connect(tmp_path / "app.db")
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO orders VALUES (1)")
        with pytest.raises(StoreBusy, match="inside your own transaction pass conn="):
            await store.add("a")
        await store.backend.bind(connection).enqueue([job("a")])
        connection.commit()
        connection.close()
        assert (await store.view("a")).status == "pending"


async def test_a_connection_to_something_else_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "app.db") as store, opened(":memory:") as memory:
        elsewhere = sqlite3.connect(tmp_path / "other.db")
        nowhere = sqlite3.connect(":memory:")
        here = sqlite3.connect(tmp_path / "app.db")
        for connection in ("app.db", elsewhere, nowhere):
            with pytest.raises(InvalidOption):
                store.backend.bind(connection)
        with pytest.raises(InvalidOption):
            memory.backend.bind(here)
        for each in (elsewhere, nowhere, here):
            each.close()
        with pytest.raises(InvalidOption):
            store.backend.bind(here)


async def test_a_store_that_is_there_is_opened_inside_of_the_callers_own_transaction(tmp_path: Path) -> None:
    """The first enqueue of a process that starts its queue by it: a view of Flask or Django."""
    async with opened(tmp_path / "app.db"):
        pass
    connection = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    async with opened(tmp_path / "app.db", busy_timeout="10ms") as store:
        await store.backend.bind(connection).enqueue([job("a")])
        connection.execute("COMMIT")
        connection.close()
        assert await counts(store, "q") == {"pending": 1}


needs_autocommit = pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 knows autocommit since Python 3.12")


def connect(path: Path, **settings: Any) -> contextlib.closing[sqlite3.Connection]:
    """`settings`: some that not every Python knows."""
    return contextlib.closing(sqlite3.connect(path, **settings))


@pytest.mark.parametrize("begins", ["itself", pytest.param("by autocommit=False", marks=needs_autocommit)])
async def test_a_transaction_that_has_done_nothing_yet_takes_its_turn_before_it_reads(
    tmp_path: Path, begins: str
) -> None:
    """Somebody else writes whenever SQLite lets them, before each statement."""
    settings: dict[str, Any] = {} if begins == "itself" else {"autocommit": False}
    path = tmp_path / "app.db"
    async with opened(path) as store:
        with connect(path, **settings) as connection, connect(path, timeout=0) as other:

            def write(_: str) -> None:
                with contextlib.suppress(sqlite3.OperationalError), other:
                    other.execute("CREATE TABLE IF NOT EXISTS noise (n INTEGER)")
                    other.execute("INSERT INTO noise VALUES (1)")

            if begins == "itself":
                connection.execute("BEGIN")
            bound = store.backend.bind(connection)
            connection.set_trace_callback(write)
            await bound.enqueue([job("a")])
            connection.set_trace_callback(None)
            connection.commit()
            assert other.execute("SELECT count(*) FROM noise").fetchone() > (0,)
        assert (await store.view("a")).status == "pending"


async def test_a_transaction_that_read_what_is_old_by_now_is_told_to_begin_anew(tmp_path: Path) -> None:
    async with opened(tmp_path / "app.db") as store:
        with connect(tmp_path / "app.db") as connection:
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM psyqueue_jobs").fetchone()
            await store.add("a")
            with pytest.raises(StoreBusy, match="Roll it back and repeat it"):
                await store.backend.bind(connection).enqueue([job("b")])
            connection.rollback()
            await store.backend.bind(connection).enqueue([job("b")])
            connection.commit()
        assert await counts(store, "q") == {"pending": 2}
