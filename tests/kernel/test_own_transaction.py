"""`conn=`: the job exists if and only if the caller's own transaction commits. SQLite binds sqlite3 connections."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from psyqueue import InvalidOption, PsyQueue
from psyqueue.backends import sqlite
from support.kernel import Heard


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shop.db"


@pytest.fixture
async def shop(path):
    """A started queue and a connection of the application's own to the same file."""
    q = PsyQueue().use(sqlite(path=path))
    q.handle("mail", send)
    async with q:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("create table orders (id integer primary key)")
            yield q, connection


async def send(to): ...


async def test_job_and_rows_are_committed_together(shop):
    q, connection = shop
    heard = Heard(q.events, "job:*")
    connection.execute("begin immediate")
    connection.execute("insert into orders values (1)")
    one = await q.enqueue("mail", {"to": "a"}, conn=connection)
    many = await q.enqueue_bulk([{"name": "mail", "payload": {"to": str(n)}} for n in range(3)], conn=connection)
    assert one.created
    assert await q.get(one.id) is None
    connection.execute("commit")
    assert [(await handle.refresh()).status for handle in (one, *many)] == ["pending"] * 4
    assert heard.events == []


async def test_rolled_back_job_never_was(shop):
    q, connection = shop
    connection.execute("begin immediate")
    connection.execute("insert into orders values (1)")
    handle = await q.enqueue("mail", {"to": "a"}, conn=connection)
    connection.execute("rollback")
    assert await q.get(handle.id) is None
    assert connection.execute("select count(*) from orders").fetchone() == (0,)


async def test_connection_to_another_file_is_refused(shop, tmp_path):
    q, _ = shop
    with (
        contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other,
        pytest.raises(InvalidOption, match="conn"),
    ):
        await q.enqueue("mail", {"to": "a"}, conn=other)
