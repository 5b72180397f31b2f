"""Two stores as one queue while its jobs move from the old one to the new one. Nothing else of psyqueue knows of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, NoReturn

from msgspec.structs import replace

from psyqueue.backend import (
    NO_EFFECTS,
    Amended,
    AnyOutcome,
    BackendAdapter,
    Bound,
    Capabilities,
    Change,
    Done,
    Effects,
    Enqueued,
    Fetch,
    Filter,
    Holders,
    Info,
    Item,
    JobView,
    Limits,
    Lock,
    NewJob,
    Op,
    Page,
    QueueInfo,
    Renewal,
    Schedule,
    Session,
    SessionInfo,
    SessionKeeper,
    SettleReply,
    Stored,
)
from psyqueue.backend.transactions import Transaction
from psyqueue.clock import Clock
from psyqueue.errors import InvalidState, NamespaceFrozen
from psyqueue.kernel.aio import settle_down, spawn
from psyqueue.moving.both import Both
from psyqueue.moving.bound import MovingBound, MovingTransaction
from psyqueue.moving.house import JOURNAL, MARK
from psyqueue.moving.intake import Intake
from psyqueue.moving.routes import Routes
from psyqueue.moving.sessions import Sessions, in_each

CLOSE_MS = 1_000
"""For subscriptions to end."""


class MovingBackend:
    """`old` until a move to `new` begins (`psyqueue migrate run`), both while it goes on, `new` when it is over."""

    def __init__(self, old: BackendAdapter, new: BackendAdapter, *, clock: Clock | None = None) -> None:
        self.routes: Routes = Routes(old, new, clock)
        self._both = Both(self.routes)
        self._intake = Intake(self.routes)
        self._sessions = Sessions(self.routes)

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def capabilities(self) -> Capabilities:
        old, new = self.routes.old.capabilities, self.routes.new.capabilities
        return replace(
            self.routes.intake.capabilities,
            batch_max=min(old.batch_max, new.batch_max),
            wakes_across_processes=old.wakes_across_processes and new.wakes_across_processes,
            test_clock=old.test_clock and new.test_clock,
        )

    async def connect(self) -> Info:
        await self.routes.connect()
        return await self.info()

    async def disconnect(self) -> None:
        await self.routes.disconnect()

    async def info(self) -> Info:
        return await self._both.info()

    # ── the hot path ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def enqueue(self, op: Op, jobs: Sequence[NewJob], effects: Effects = NO_EFFECTS) -> tuple[Enqueued, ...]:
        return await self._intake.enqueue(op, jobs, effects)

    async def settle(
        self, op: Op, session_id: str, outcomes: Sequence[AnyOutcome], fetch: Fetch | None = None
    ) -> SettleReply:
        return await self._sessions.settle(op, session_id, outcomes, fetch)

    async def wait(self, queues: Sequence[str], job_ids: Sequence[str], timeout_ms: int) -> bool:
        return await self._both.wait(queues, job_ids, timeout_ms)

    def bind(self, connection: object) -> Bound:
        return MovingBound(self.routes, connection)

    async def begin(self) -> Transaction:
        store = self.routes.new if self.routes.is_drained else self.routes.old
        return MovingTransaction(await store.begin(), store, self._sessions)

    # ── worker sessions ───────────────────────────────────────────────────────────────────────────────────────────────
    async def open_session(self, op: Op, session: Session) -> Renewal:
        return await self._sessions.open(op, session)

    def keeper(self) -> SessionKeeper:
        return self._sessions.keeper()

    async def close_session(self, op: Op, session_id: str) -> Done:
        return await self._sessions.close(op, session_id)

    # ── bounded maintenance ───────────────────────────────────────────────────────────────────────────────────────────
    async def reap(self, limit: int) -> Done:
        return await in_each(self.routes.homes, lambda store: store.reap(limit))

    async def promote(self, queues: Sequence[str], limit: int) -> Done:
        return await in_each(self.routes.homes, lambda store: store.promote(queues, limit))

    async def prune(self, limit: int) -> Done:
        return await in_each(self.routes.homes, lambda store: store.prune(limit))

    # ── reading and operating ─────────────────────────────────────────────────────────────────────────────────────────
    async def get(self, ids: Sequence[str]) -> tuple[JobView | None, ...]:
        return await self._both.get(ids)

    async def holders(self, unique: Sequence[str], idempotency: Sequence[str]) -> Holders:
        found = [await store.holders(unique, idempotency) for store in self.routes.homes]
        first, last = found[0], found[-1]
        return Holders(
            tuple(old or new for old, new in zip(first.unique, last.unique, strict=True)),
            tuple(old or new for old, new in zip(first.idempotency, last.idempotency, strict=True)),
        )

    async def list_jobs(self, where: Filter, cursor: str | None, limit: int) -> Page:
        return await self._both.list_jobs(where, cursor, limit)

    async def queues(self, prefix: str, cursor: str | None, limit: int) -> tuple[tuple[QueueInfo, ...], str | None]:
        return await self._both.queues(prefix, cursor, limit)

    async def lane_limits(
        self, queue: str, prefix: str, cursor: str | None, limit: int
    ) -> tuple[tuple[Limits, ...], str | None]:
        await self.routes.learn()
        return await self.routes.intake.lane_limits(queue, prefix, cursor, limit)

    async def sessions(self, cursor: str | None, limit: int) -> tuple[tuple[SessionInfo, ...], str | None]:
        return await self._both.sessions(cursor, limit)

    async def amend(
        self, op: Op, where: Filter, change: Change, cursor: str | None, limit: int, effects: Effects = NO_EFFECTS
    ) -> Amended:
        return await self._both.amend(op, where, change, cursor, limit, effects)

    async def put_limits(
        self, op: Op, limits: Sequence[Limits], effects: Effects = NO_EFFECTS, *, only: Sequence[str] = ()
    ) -> None:
        """In every store that has a part in the move, also in one that comes in meanwhile; effects in the first."""
        having: list[BackendAdapter] = []

        async def put() -> None:
            for store in self.routes.homes:
                if store not in having:
                    await store.put_limits(op, limits, NO_EFFECTS if having else effects, only=only)
                    having.append(store)

        await self.routes.learn()
        await self.routes.patiently(put)
        while await self.routes.learn():  # the switch has copied what was there before
            await self.routes.patiently(put)

    # ── schedules: they make jobs, so they live where new jobs go ─────────────────────────────────────────────────────
    async def put_schedule(self, op: Op, schedule: Schedule, *, delete: bool = False) -> Schedule:
        await self.routes.learn()
        return await self.routes.patiently(lambda: self.routes.intake.put_schedule(op, schedule, delete=delete))

    async def list_schedules(self, cursor: str | None, limit: int) -> tuple[tuple[Schedule, ...], str | None]:
        await self.routes.learn()
        return await self.routes.intake.list_schedules(cursor, limit)

    async def fire(
        self, op: Op, schedule: Schedule, nominal_ms: int, jobs: Sequence[NewJob], next_at_ms: int | None
    ) -> bool:
        return await self.routes.patiently(lambda: self.routes.intake.fire(op, schedule, nominal_ms, jobs, next_at_ms))

    # ── shared memory of plugins: it moves last ───────────────────────────────────────────────────────────────────────
    async def write_state(self, op: Op, effects: Effects) -> tuple[int, ...]:
        if effects.jobs and not self.routes.is_done:
            return await self._write_with_jobs(op, effects)
        return await self.routes.patiently(lambda: self.routes.home.write_state(op, effects))

    async def _write_with_jobs(self, op: Op, effects: Effects) -> tuple[int, ...]:
        try:
            return await self.routes.home.write_state(op, effects)
        except NamespaceFrozen as exc:
            await self.routes.learn()
            if not self.routes.is_switched:
                raise
            raise InvalidState(
                "state and jobs cannot be written in one step while they are in two stores. Try again when the move "
                "is over"
            ) from exc

    async def read_state(self, keys: Sequence[str]) -> tuple[Item | None, ...]:
        await self._know_home()
        return await self.routes.home.read_state(keys)

    async def scan_state(self, prefix: str, cursor: str | None, limit: int) -> tuple[tuple[Item, ...], str | None]:
        await self._know_home()
        items, after = await self.routes.home.scan_state(prefix, cursor, limit)
        return tuple(item for item in items if item.key not in (JOURNAL, MARK)), after

    async def read_records(self, stream: str, after_seq: int, limit: int) -> tuple[Stored, ...]:
        await self._know_home()
        return await self.routes.home.read_records(stream, after_seq, limit)

    async def _know_home(self) -> None:
        """A store that is closed still answers, with what was true then."""
        await self.routes.learn()

    async def lock(self, op: Op, name: str, holder: str, lease_ms: int) -> Lock:
        return await self.routes.patiently(lambda: self.routes.home.lock(op, name, holder, lease_ms))

    # ── best-effort messages ──────────────────────────────────────────────────────────────────────────────────────────
    async def publish(self, topic: str, bodies: Sequence[bytes]) -> None:
        await self.routes.home.publish(topic, bodies)

    async def subscribe(self, topics: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        """Of every store that is there: who publishes may know more, or less, than we do."""
        inbox: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(1_000)

        async def listen(store: BackendAdapter) -> None:
            async for received in store.subscribe(topics):
                await inbox.put(received)

        listeners = [spawn(listen(store), name="psyqueue-listen", is_awaited=True) for store in self.routes.reachable]
        for listener in listeners:
            listener.add_done_callback(lambda _: _end(inbox))
        try:
            while (received := await inbox.get()) is not None:
                yield received
            for listener in listeners:
                if listener.done():
                    listener.result()
        finally:
            for listener in listeners:
                listener.cancel()
            await settle_down(listeners, CLOSE_MS)

    # ── a move moves as a whole ───────────────────────────────────────────────────────────────────────────────────────
    async def set_mode(self, *_arguments: Any, **_options: Any) -> NoReturn:
        raise _one_for_a_move()

    async def export_part(self, *_arguments: Any, **_options: Any) -> NoReturn:
        raise _one_for_a_move()

    async def import_part(self, *_arguments: Any, **_options: Any) -> NoReturn:
        raise _one_for_a_move()

    async def drop_part(self, *_arguments: Any, **_options: Any) -> NoReturn:
        raise _one_for_a_move()

    # ── proof ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def check(self, cursor: str | None, limit: int) -> tuple[tuple[str, ...], str | None]:
        return await self._both.check(cursor, limit)

    async def advance_clock(self, by_ms: int) -> None:
        for store in self.routes.reachable:
            await store.advance_clock(by_ms)


def _end(inbox: asyncio.Queue[Any]) -> None:
    """A word more or less: whoever listens only looks."""
    if inbox.full():
        inbox.get_nowait()
    inbox.put_nowait(None)


def _one_for_a_move() -> InvalidState:
    return InvalidState("two stores that are one for a move cannot be moved themselves: name one of them")
