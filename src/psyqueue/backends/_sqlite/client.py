"""One process's way into the file: threads, connections, turns at writing, waking; opened and closed as one."""

from __future__ import annotations

import asyncio
import collections
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from psyqueue.backend import Info, Renewal, SessionKeeper
from psyqueue.backend.state_rules import TEST_EPOCH_MS
from psyqueue.backends._sqlite.connection import ProcessGuard, check_version, open_connection
from psyqueue.backends._sqlite.faults import translate
from psyqueue.backends._sqlite.file_lock import FileLock
from psyqueue.backends._sqlite.keeper import FileKeeper, MemoryKeeper
from psyqueue.backends._sqlite.options import SqliteOptions
from psyqueue.backends._sqlite.place import Identity, check_place
from psyqueue.backends._sqlite.reader import Reader
from psyqueue.backends._sqlite.schema import MIGRATIONS, migrate
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import NOTHING, About, Step
from psyqueue.backends._sqlite.waiting import Waiter, Waiting
from psyqueue.backends._sqlite.wake import folder_for, leave, prepare
from psyqueue.backends._sqlite.writer import Bridge, Call, Writer, give_up
from psyqueue.errors import PsyQueueError, StoreUnavailable, StoreUnusable

R = TypeVar("R")
_FULL = 2
"""PRAGMA synchronous."""


class _Opened(msgspec.Struct, frozen=True, kw_only=True):
    """What one connect opened; neither thread runs yet."""

    writer: Writer
    reader: Reader | None = None
    lock: FileLock | None = None
    identity: Identity | None = None
    warnings: tuple[str, ...] = ()

    def close(self) -> None:
        for each in (self.writer, self.reader):
            if each is not None:
                each.close_unused()
        if self.lock is not None:
            self.lock.close()


class Client:
    """`write` and `look` are for the event loop; the keeper is for the lease thread."""

    def __init__(self, options: SqliteOptions) -> None:
        self._options = options
        self._guard = ProcessGuard(options.file)
        self._bridge = Bridge()
        self._connecting = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._lock: FileLock | None = None
        self._identity: Identity | None = None
        self._waiting: Waiting | None = None
        self._warnings: tuple[str, ...] = ()
        self._data_version = -1
        self._queued: collections.deque[tuple[float, Call]] = collections.deque()
        self._watch: asyncio.TimerHandle | None = None

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def connect(self) -> None:
        if self._writer is None:
            # Made before a fork and opened after it: a server that loads the application first does so.
            self._guard = ProcessGuard(self._options.file)
        self._guard.check()
        async with self._connecting:
            if self._writer is None:
                await self._connect()

    async def _connect(self) -> None:
        self._loop = asyncio.get_running_loop()
        opening = self._loop.run_in_executor(None, self._open)
        try:
            opened = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unused)  # it goes on in its thread
            raise
        is_memory = self._options.is_memory
        self._waiting = Waiting(
            None if is_memory else folder_for(self._options.file), None if is_memory else self._look
        )
        self._lock, self._identity, self._warnings = opened.lock, opened.identity, opened.warnings
        for each in (opened.writer, opened.reader):
            if each is not None:
                each.start()
        self._writer, self._reader = opened.writer, opened.reader

    def _open(self) -> _Opened:
        """In a thread of its own: it may wait for other processes."""
        check_version()
        options = self._options
        if options.is_memory:
            return _Opened(writer=Writer(options, self._open_and_migrate(None), None, None, self._committed))
        warnings = check_place(options.file, allow_network=options.allow_network_filesystem)
        with ExitStack() as opened:
            lock = FileLock(self._lock_path, options.file)
            opened.callback(lock.close)
            connection = self._open_and_migrate(lock)
            opened.callback(connection.close)
            prepare(folder_for(options.file))
            identity = Identity(options.file)
            reader = Reader(options, open_connection(options, read_only=True), identity)
            opened.pop_all()
        writer = Writer(options, connection, lock, identity, self._committed)
        return _Opened(writer=writer, reader=reader, lock=lock, identity=identity, warnings=warnings)

    @property
    def _lock_path(self) -> str:
        return f"{self._options.file}-lock"

    def _open_and_migrate(self, lock: FileLock | None) -> sqlite3.Connection:
        options = self._options
        with lock.held(options.busy_timeout_ms) if lock is not None else nullcontext():
            connection = open_connection(options)
            try:
                migrate(connection, options.file, test_clock_ms=TEST_EPOCH_MS if options.test_clock else None)
                self._check_clock(connection)
            except sqlite3.Error as exc:
                connection.close()
                raise translate(exc, options.file) from exc
            except PsyQueueError:
                connection.close()
                raise
        return connection

    def _check_clock(self, connection: sqlite3.Connection) -> None:
        is_test = connection.execute(SQL["meta.read"], NOTHING).fetchone()[6] is not None
        if self._options.test_clock and not is_test:
            text = f"{self._options.file} was made with the real clock; test_clock=True would stop it. Use a new file"
            raise StoreUnusable(text, file=self._options.file)

    async def disconnect(self) -> None:
        writer, reader, self._writer, self._reader = self._writer, self._reader, None, None
        if writer is None:
            return
        self._guard.check()
        if self._waiting is not None:
            self._waiting.close()
        if not self._options.is_memory:
            leave(self._options.file)
        threads = [each for each in (writer, reader) if each is not None]
        for each in threads:
            each.stop()
        # Bounded: a turn at writing that never comes must not keep the process from ending.
        limit_ms = 2 * self._options.busy_timeout_ms
        # In no thread: when the interpreter ends, none can be started any more.
        await asyncio.wait([asyncio.wrap_future(each.closed) for each in threads], timeout=limit_ms / 1000)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._lock is not None:
            self._lock.close()

    def require_open(self) -> None:
        """Raises StoreUnavailable, ForkedProcess."""
        self._guard.check()
        if self._writer is None:
            text = f"{self._options.file} is not connected: call connect()"
            raise StoreUnavailable(text, outcome="refused", file=self._options.file)

    @property
    def waiting(self) -> Waiting:
        self.require_open()
        assert self._waiting is not None
        return self._waiting

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def write(self, work: Callable[[Step], R], about: About = NOTHING) -> R:
        """One step, committed when this returns. Cancelled, the caller goes and the step goes on."""
        self.require_open()
        assert self._writer is not None
        call, future = self._bridge.call(work, about)
        self._guard_time(call)
        self._writer.submit(call)
        reply: R = await future
        return reply

    async def look(self, work: Callable[[Step], R]) -> R:
        """A snapshot that holds everything that was acknowledged before."""
        if self._options.is_memory:
            return await self.write(work)
        self.require_open()
        assert self._reader is not None
        call, future = self._bridge.call(work)
        self._reader.submit(call)
        reply: R = await future
        return reply

    def _guard_time(self, call: Call) -> None:
        """A turn at writing cannot be given a time: who waits longer than busy_timeout is answered from here."""
        queued = self._queued
        while queued and queued[0][1].is_taken:
            queued.popleft()
        loop = asyncio.get_running_loop()
        queued.append((loop.time() + self._options.busy_timeout_ms / 1000, call))
        if self._watch is None:
            self._watch = loop.call_at(queued[0][0], self._on_watch, loop)

    def _on_watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watch = None
        queued, now = self._queued, loop.time()
        while queued and (queued[0][1].is_taken or queued[0][0] <= now):
            give_up(queued.popleft()[1], self._options.file)
        if queued:
            self._watch = loop.call_at(queued[0][0], self._on_watch, loop)

    def _committed(self, steps: Iterable[Step]) -> None:
        """In the writer's thread, after the commit and outside the turn at writing."""
        waiting, loop = self._waiting, self._loop
        if waiting is None or loop is None:
            return
        queues, ended, is_everybody = waiting.tell_others(steps)
        if waiting.waiters:
            wake = waiting.wake_all if is_everybody else lambda: waiting.wake(queues, ended)
            _call_in(loop, wake)

    def _look(self, waiters: tuple[Waiter, ...]) -> asyncio.Future[list[Waiter]]:
        """Which of them have something to wake up for, if the file changed since the last look."""
        call, future = self._bridge.call(lambda step: self._find(step, waiters))
        if self._reader is None:
            future.cancel()
        else:
            self._reader.submit(call)
        return future

    def _find(self, step: Step, waiters: tuple[Waiter, ...]) -> list[Waiter]:
        (version,) = step.run("PRAGMA data_version").fetchone()
        if version == self._data_version:
            return []
        self._data_version = version
        return [waiter for waiter in waiters if _has_news(step, waiter)]

    # ── the rest ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def keeper(self) -> SessionKeeper:
        self.require_open()
        if self._identity is None:
            return MemoryKeeper(self._run_blocking)
        return FileKeeper(self._options, self._lock_path, self._identity)

    def _run_blocking(self, work: Callable[[Step], Renewal]) -> Renewal:
        self.require_open()
        assert self._writer is not None
        ended = threading.Event()
        call = Call(work, lambda _: ended.set())
        self._writer.submit(call)
        if not ended.wait(self._options.busy_timeout_ms / 1000):
            give_up(call, self._options.file)
            ended.wait()
        if call.error is not None:
            raise call.error
        renewal: Renewal = call.reply
        return renewal

    def info(self, step: Step) -> Info:
        (synchronous,) = step.run("PRAGMA synchronous").fetchone()
        is_memory = self._options.is_memory
        power_loss = "lost" if is_memory else "safe" if synchronous >= _FULL else "bounded_loss"
        return Info(
            store="sqlite",
            version=sqlite3.sqlite_version,
            schema=len(MIGRATIONS),
            now_ms=step.now_ms,
            mode=step.mode,
            epoch=step.epoch,
            moved_to=step.moved_to,
            process_crash="lost" if is_memory else "safe",
            server_crash=power_loss,  # type: ignore[arg-type] # one of the three above
            power_loss=power_loss,  # type: ignore[arg-type] # one of the three above
            failover="lost",
            warnings=(*self._warnings, *self._more_warnings()),
        )

    def _more_warnings(self) -> list[str]:
        if self._options.is_memory:
            return ["jobs live in the memory of this process: for tests and trials only"]
        warnings = []
        if Path(self._options.file).stat().st_mode & 0o077:
            warnings.append("other users of this machine may read or write the file: chmod 600 it")
        if self._options.test_clock:
            warnings.append("the store's clock stands still: for tests only")
        return warnings


def _close_unused(opening: asyncio.Future[_Opened]) -> None:
    """Of a connect that nobody waits for any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _has_news(step: Step, waiter: Waiter) -> bool:
    if any(step.run(SQL["wait.pending"], (queue,)).fetchone() is not None for queue in waiter.queues):
        return True
    if not waiter.ids:
        return False
    (live,) = step.run(SQL["wait.live"], (msgspec.json.encode(list(waiter.ids)).decode(),)).fetchone()
    return int(live) < len(waiter.ids)


def _call_in(loop: asyncio.AbstractEventLoop, act: Callable[[], Any]) -> None:
    try:
        loop.call_soon_threadsafe(act)
    except RuntimeError:
        # The loop was closed without a disconnect: nobody is there to be woken.
        return
