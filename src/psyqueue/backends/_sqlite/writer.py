"""The writer: one thread of the process that writes, with a connection of its own and group commit.

What is queued when its turn comes goes into one transaction, each call in a savepoint of its own, so that FULL
durability pays one fsync for all of them. Measured (docs/adr/0004): 50 calls a commit do 100 times the work of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final

from psyqueue.backend.failpoints import failpoint
from psyqueue.backends._sqlite.faults import busy, translate
from psyqueue.backends._sqlite.file_lock import FileLock
from psyqueue.backends._sqlite.forks import closes_in_child, leak
from psyqueue.backends._sqlite.options import SqliteOptions
from psyqueue.backends._sqlite.place import Identity
from psyqueue.backends._sqlite.step import NOTHING, About, Step
from psyqueue.errors import PsyQueueError, StoreUnavailable

GROUP_MAX: Final = 64
"""Calls in one commit: more would make the first of them, and other processes, wait noticeably."""
WAL_BYTES_MAX: Final = 64 << 20
"""A WAL that grew beyond this under a long reader is cut back to nothing as soon as it can be."""
GROUPS_BETWEEN_LOOKS: Final = 256

Work = Callable[[Step], Any]
Committed = Callable[[Iterable[Step]], None]


class Call:
    """One verb on its way through the writer. `take` decides a race: it is run, or it is given up."""

    __slots__ = ("_answered", "_is_answered", "_mutex", "about", "error", "is_taken", "reply", "step", "work")

    def __init__(self, work: Work, answered: Callable[[Call], None], about: About = NOTHING) -> None:
        self.work = work
        self.about = about
        self.step: Step | None = None
        self.reply: Any = None
        self.error: BaseException | None = None
        self.is_taken = False
        self._answered = answered
        self._is_answered = False
        self._mutex = threading.Lock()

    def take(self) -> bool:
        """True for the first who asks: the writer about to run it, or the watch that gives it up."""
        with self._mutex:
            is_first = not self.is_taken
            self.is_taken = True
            return is_first

    def answer(self) -> None:
        if not self._is_answered:
            self._is_answered = True
            self._answered(self)


class Writer:
    """The connection is used in its thread alone; `submit` is for any thread."""

    def __init__(
        self,
        options: SqliteOptions,
        connection: sqlite3.Connection,
        lock: FileLock | None,
        identity: Identity | None,
        committed: Committed,
    ) -> None:
        self._options = options
        self._connection = connection
        self._lock = lock
        self._identity = identity
        self._committed = committed
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._groups = 0
        self._thread = threading.Thread(target=self._run, name="psyqueue-sqlite-writer", daemon=True)
        self.closed: Future[None] = Future()
        closes_in_child(self)

    def start(self) -> None:
        self._thread.start()

    def submit(self, call: Call) -> None:
        self._calls.put(call)

    def stop(self) -> None:
        """What was submitted before is still done."""
        self._calls.put(None)

    # ── the thread ────────────────────────────────────────────────────────────────────────────────────────────────────
    def _run(self) -> None:
        self.closed.set_running_or_notify_cancel()  # from here on nobody who waits for it can cancel it
        try:
            while (group := self._next_group()) is not None:
                try:
                    self._write(group)
                except Exception as exc:  # noqa: BLE001 - the thread must outlive whatever it is, and its callers know
                    self._fail(group, exc)
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self.closed.set_result(None)

    def close_unused(self) -> None:
        """Instead of `start`."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def close_in_child(self) -> None:
        leak(self._connection)

    def _next_group(self) -> list[Call] | None:
        """Everything that is queued, up to a bound; None: stop."""
        first = self._calls.get()
        if first is None:
            return None
        group = [first]
        # The only reader of its queue: what is there now stays there.
        while len(group) < GROUP_MAX and not self._calls.empty():
            call = self._calls.get()
            if call is None:
                self._calls.put(None)
                break
            group.append(call)
        return group

    def _write(self, group: list[Call]) -> None:
        try:
            if self._identity is not None:
                self._identity.check()
        except PsyQueueError as exc:
            self._fail([call for call in group if call.take()], exc)
            return
        if self._lock is not None:
            self._lock.acquire()
        try:
            taken = [call for call in group if call.take()]
            if taken:
                self._transact(taken)
        finally:
            if self._lock is not None:
                self._lock.release()
        if taken:
            self._reply(taken)
        self._groups += 1
        if self._groups % GROUPS_BETWEEN_LOOKS == 0:
            self._cut_wal()

    def _transact(self, group: list[Call]) -> None:
        """One transaction for all; if SQLite gave the whole of it up because of one call, each by itself."""
        connection = self._connection
        try:
            failpoint("sqlite.begin.before")
            connection.execute("BEGIN IMMEDIATE")
            failpoint("sqlite.begin.after")
            is_whole = self._run_alone(group[0]) if len(group) == 1 else self._run_together(group)
            if not is_whole:
                for call in group:
                    call.error = call.reply = call.step = None
                    self._transact([call])
                return
            failpoint("sqlite.commit.before")
            if connection.in_transaction:
                connection.execute("COMMIT")
            failpoint("sqlite.commit.after")
        except (sqlite3.Error, PsyQueueError) as exc:
            self._roll_back()
            for call in group:
                # One error each: they are raised in different places.
                call.error = exc if isinstance(exc, PsyQueueError) else self._translated(exc)
                call.step = None

    def _run_alone(self, call: Call) -> bool:
        self._run_call(call)
        if call.error is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        return True

    def _run_together(self, group: list[Call]) -> bool:
        """False: SQLite rolled the whole transaction back because of one call."""
        connection = self._connection
        for call in group:
            connection.execute("SAVEPOINT call")
            self._run_call(call)
            if not connection.in_transaction:
                return False
            if call.error is not None:
                connection.execute("ROLLBACK TO call")
            connection.execute("RELEASE call")
        return True

    def _run_call(self, call: Call) -> None:
        try:
            step = Step(self._connection, call.about)
            call.reply = call.work(step)
            step.flush()
            call.step = step
        except sqlite3.Error as exc:
            call.error = self._translated(exc)
        except Exception as exc:  # noqa: BLE001 - whatever it is belongs to the caller, not to this thread
            call.error = exc

    def _translated(self, exc: sqlite3.Error) -> PsyQueueError:
        error = translate(exc, self._options.file)
        error.__cause__ = exc
        return error

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _reply(self, group: list[Call]) -> None:
        news = [call.step for call in group if call.step is not None and call.step.has_news]
        if news:
            self._committed(news)
        for call in group:
            call.answer()

    def _fail(self, group: list[Call], exc: Exception) -> None:
        """For those that have no answer yet. What is not ours is said to be unknown: it may have been committed."""
        error = exc
        if not isinstance(exc, PsyQueueError):
            error = StoreUnavailable(f"{self._options.file}: {type(exc).__name__}: {exc}", file=self._options.file)
            error.__cause__ = exc
        for call in group:
            call.error = error
            call.answer()

    def _cut_wal(self) -> None:
        if self._options.is_memory:
            return
        with contextlib.suppress(OSError, sqlite3.Error):
            if os.stat(f"{self._options.file}-wal").st_size > WAL_BYTES_MAX:  # noqa: PTH116
                # A reader in its way is not waited for: the next look may find it gone.
                self._connection.execute("PRAGMA busy_timeout = 0")
                try:
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                finally:
                    self._connection.execute(f"PRAGMA busy_timeout = {self._options.busy_timeout_ms}")


def give_up(call: Call, file: str) -> None:
    """The turn did not come in time: the call is answered, and never run."""
    if call.take():
        call.error = busy(file)
        call.answer()


class Bridge:
    """From the writer's thread back into the loops of the callers: one wake-up for all that ended together."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._ended: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Call]]] = {}

    def call(self, work: Work, about: About = NOTHING) -> tuple[Call, asyncio.Future[Any]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        return Call(work, lambda call: self._put(loop, future, call), about), future

    def _put(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], call: Call) -> None:
        with self._mutex:
            ended = self._ended.get(loop)
            if ended is not None:
                ended.append((future, call))
                return
            self._ended[loop] = [(future, call)]
        try:
            loop.call_soon_threadsafe(self._deliver, loop)
        except RuntimeError:
            # The loop is closed: nobody is there to be told.
            with self._mutex:
                self._ended.pop(loop, None)

    def _deliver(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._mutex:
            ended = self._ended.pop(loop, [])
        for future, call in ended:
            if future.done():
                continue  # the caller was cancelled; the call went on
            if call.error is not None:
                future.set_exception(call.error)
            else:
                future.set_result(call.reply)
