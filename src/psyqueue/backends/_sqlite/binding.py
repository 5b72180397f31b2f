"""Verbs inside a transaction of the caller's own, on the caller's own connection to the same file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from psyqueue.backend import NO_EFFECTS, AnyOutcome, Effects, Enqueued, NewJob, Settled
from psyqueue.backend.bounds import check_jobs, check_outcomes
from psyqueue.backends._sqlite import lifecycle
from psyqueue.backends._sqlite.faults import translate
from psyqueue.backends._sqlite.options import SqliteOptions
from psyqueue.backends._sqlite.settle import open_session_number, settle_outcomes
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import NOTHING, About, Step
from psyqueue.backends._sqlite.verbs import enqueue
from psyqueue.errors import InvalidOption, InvalidState

R = TypeVar("R")
_LEGACY: Final = -1
"""`sqlite3.LEGACY_TRANSACTION_CONTROL`: `isolation_level` decides. Before Python 3.12 there is nothing else."""


class SqliteBound:
    """Runs in the caller's thread: SQLite connections belong to the thread that opened them. Never commits."""

    def __init__(self, options: SqliteOptions, connection: sqlite3.Connection) -> None:
        self._options = options
        self._connection = connection

    async def enqueue(self, jobs: Sequence[NewJob], effects: Effects = NO_EFFECTS) -> tuple[Enqueued, ...]:
        check_jobs(jobs, effects)
        return self._run(lambda step: enqueue(step, jobs, effects), NOTHING)

    async def settle(self, session_id: str, outcomes: Sequence[AnyOutcome]) -> tuple[Settled, ...]:
        check_outcomes(outcomes, None)

        def act(step: Step) -> tuple[Settled, ...]:
            settled = settle_outcomes(step, open_session_number(step, session_id), outcomes)
            lifecycle.follow_through(step)
            return settled

        return self._run(act, (None, None, session_id))

    def _run(self, act: Callable[[Step], R], about: About) -> R:
        try:
            with _plain_rows(self._connection):
                return self._step(act, about)
        except sqlite3.Error as exc:
            raise translate(exc, self._options.file) from exc

    def _step(self, act: Callable[[Step], R], about: About) -> R:
        connection = self._connection
        if connection.in_transaction:
            connection.execute(SQL["meta.take_turn"])
        elif _commits_each_statement(connection):
            raise InvalidState(
                "the connection is in no transaction: begin one (BEGIN IMMEDIATE; in Django transaction.atomic()), "
                "or leave isolation_level=None and autocommit=True out"
            )
        else:
            connection.execute("BEGIN IMMEDIATE")
        connection.execute("SAVEPOINT psyqueue_bound")
        try:
            step = Step(connection, about)
            reply = act(step)
            step.flush()
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK TO psyqueue_bound")
                connection.execute("RELEASE psyqueue_bound")
            raise
        connection.execute("RELEASE psyqueue_bound")
        return reply


def _commits_each_statement(connection: sqlite3.Connection) -> bool:
    """Its caller does not expect that a transaction is open, and would never end one that we began."""
    autocommit = getattr(connection, "autocommit", _LEGACY)
    return autocommit is True or (autocommit == _LEGACY and connection.isolation_level is None)


@contextlib.contextmanager
def _plain_rows(connection: sqlite3.Connection) -> Iterator[None]:
    """The caller's way of seeing rows is not ours."""
    factories = connection.row_factory, connection.text_factory
    connection.row_factory, connection.text_factory = None, str
    try:
        yield
    finally:
        connection.row_factory, connection.text_factory = factories


def bind(options: SqliteOptions, connection: object) -> SqliteBound:
    """Raises InvalidOption."""
    if not isinstance(connection, sqlite3.Connection):
        way_out = "Give the one below your library's own; of Django connection.connection, inside atomic()"
        raise InvalidOption("conn", connection, "is not a sqlite3.Connection", way_out)
    if options.is_memory:
        raise InvalidOption("conn", connection, "a store in :memory: cannot be shared. Give the store a file")
    try:
        with _plain_rows(connection):
            databases = connection.execute("PRAGMA database_list").fetchall()
    except sqlite3.Error as exc:
        raise InvalidOption("conn", connection, f"cannot be used here ({exc})") from exc
    main = next((file for _, name, file in databases if name == "main"), "")
    if not main or not os.path.exists(main) or not os.path.samefile(main, options.file):  # noqa: PTH110, PTH121
        raise InvalidOption("conn", connection, f"is open on {main or ':memory:'!r}, not on {options.file!r}")
    return SqliteBound(options, connection)
