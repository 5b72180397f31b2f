"""What the disk and SQLite give by themselves: no queue on this machine can be faster with the same batches."""

from __future__ import annotations

import os
import sqlite3
import time

from benchmarks.machine import Window
from benchmarks.spec import Facts, Spec

FSYNC_S = 1.0
BLOCK = b"x" * 8_192
TABLE = (
    "CREATE TABLE jobs (id INTEGER PRIMARY KEY, queue TEXT, payload TEXT, status INT, number INT)",
    "CREATE INDEX pending ON jobs (queue, number) WHERE status = 0",
)
INSERT = "INSERT INTO jobs (queue, payload, status, number) VALUES ('q', ?, 0, ?)"
DEQUEUE = """
UPDATE jobs SET status = 1
WHERE id IN (SELECT id FROM jobs WHERE queue = 'q' AND status = 0 ORDER BY number LIMIT ?)
RETURNING id, payload"""
ACK = "UPDATE jobs SET status = 2 WHERE id = ? AND status = 1"


def fsync(spec: Spec) -> Facts:
    """Blocks of 8 KiB appended to a file, each made durable."""
    handle = os.open(spec.place / "blocks", os.O_CREAT | os.O_WRONLY)
    count = 0
    with Window() as window:
        end_s = time.monotonic() + min(FSYNC_S, spec.n / 1_000)
        while time.monotonic() < end_s or count == 0:
            os.write(handle, BLOCK)
            os.fdatasync(handle)
            count += 1
    return window.rate(count)


def connect(spec: Spec) -> sqlite3.Connection:
    connection = sqlite3.connect(spec.place / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {spec.durability.upper()}")
    for statement in TABLE:
        connection.execute(statement)
    return connection


def insert(spec: Spec) -> Facts:
    """Rows into a small table with one index, `callers` of them in a transaction."""
    connection = connect(spec)
    with Window() as window:
        _insert(connection, spec)
    return window.rate(spec.n)


def _insert(connection: sqlite3.Connection, spec: Spec) -> None:
    for start in range(0, spec.n, spec.callers):
        connection.execute("BEGIN IMMEDIATE")
        numbers = range(start, min(spec.n, start + spec.callers))
        connection.executemany(INSERT, [(f'{{"i":{i}}}', i) for i in numbers])
        connection.execute("COMMIT")


def move(spec: Spec) -> Facts:
    """The least a queue does with a job: pending to active, and active to completed, `callers` in a transaction."""
    connection = connect(spec)
    _insert(connection, spec)
    active: list[tuple[int]] = []
    with Window() as window:
        while True:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(ACK, active)
            active = [(row[0],) for row in connection.execute(DEQUEUE, (spec.callers,)).fetchall()]
            connection.execute("COMMIT")
            if not active:
                break
    return window.rate(spec.n)
