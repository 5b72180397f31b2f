"""The executable specification: every verb of the seam in plain Python, nothing durable.

It says what the other stores must do (the state machine in tests/model compares them reply by reply), and serves the
tests of users. Several `MemoryBackend`s may share one `Store`, as processes share a file.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from psyqueue.backend import (
    NO_EFFECTS,
    Amended,
    AnyOutcome,
    Bound,
    Capabilities,
    Change,
    Done,
    Effects,
    Enqueued,
    Exported,
    Fetch,
    Filter,
    Holders,
    Info,
    Item,
    JobView,
    Limits,
    Lock,
    Mode,
    Moved,
    NewJob,
    Op,
    Page,
    Part,
    QueueInfo,
    Renewal,
    Schedule,
    Session,
    SessionInfo,
    SessionKeeper,
    SettleReply,
    Stored,
    Transaction,
)
from psyqueue.backend.bounds import (
    ITEMS_MAX,
    check_bodies,
    check_jobs,
    check_keys,
    check_limit,
    check_moved,
    check_outcomes,
)
from psyqueue.backend.reading import is_paused
from psyqueue.backend.transactions import no_transactions
from psyqueue.backends._memory import check, fence, intake, lifecycle, maintenance, moving, operating, settle
from psyqueue.backends._memory.dequeue import delivery_of
from psyqueue.backends._memory.hub import Hub
from psyqueue.backends._memory.keeper import Keeper
from psyqueue.backends._memory.state import Lease, Store, Turn
from psyqueue.errors import (
    InvalidOption,
    InvalidState,
    NamespaceMoved,
    SessionLost,
    StaleOp,
    StateConflict,
    StoreUnavailable,
)

R = TypeVar("R")


class MemoryBackend:
    """All jobs of one process, gone with it. `store` and `hub` of another instance make this one a second client."""

    def __init__(self, *, test_clock: bool = False, shared_with: MemoryBackend | None = None) -> None:
        self._capabilities = Capabilities(wakes_across_processes=False, test_clock=test_clock)
        self.store: Store = shared_with.store if shared_with else Store(test_clock=test_clock)
        self.hub: Hub = shared_with.hub if shared_with else Hub()
        self.lock_of_store: threading.RLock = shared_with.lock_of_store if shared_with else threading.RLock()
        self._is_connected = False

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def connect(self) -> Info:
        self._is_connected = True
        return await self.info()

    async def disconnect(self) -> None:
        self._is_connected = False
        self.hub.close(self)

    async def info(self) -> Info:
        store = self._open()
        return Info(
            store="memory",
            version="1",
            schema=1,
            now_ms=store.now_ms(),
            mode=store.mode,
            epoch=store.epoch,
            moved_to=store.moved_to,
            process_crash="lost",
            server_crash="lost",
            power_loss="lost",
            failover="lost",
            warnings=("jobs live in the memory of this process: for tests and trials only",),
        )

    # ── the hot path ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def enqueue(self, op: Op, jobs: Sequence[NewJob], effects: Effects = NO_EFFECTS) -> tuple[Enqueued, ...]:
        check_jobs(jobs, effects)

        def act(store: Store, now_ms: int) -> tuple[Enqueued, ...]:
            fence.require_enqueue(store, (*jobs, *effects.jobs))
            # Writes come first: a failed precondition refuses the call before any job is looked at.
            _, followed = intake.apply_effects(store, Effects(writes=effects.writes), now_ms)
            enqueued = intake.enqueue(store, jobs, now_ms)
            rest = Effects(jobs=effects.jobs, records=effects.records)
            _, followed = intake.apply_effects(store, rest, now_ms)
            lifecycle.follow_through(store, now_ms)
            return (*enqueued, *followed)

        return self._once(op, "enqueue", act)

    async def settle(
        self, op: Op, session_id: str, outcomes: Sequence[AnyOutcome], fetch: Fetch | None = None
    ) -> SettleReply:
        check_outcomes(outcomes, fetch)

        def act(store: Store, now_ms: int) -> SettleReply:
            wanted = fetch
            if fetch is not None and fence.starts_nothing(store):
                if not outcomes:
                    fence.require_dequeue(store)
                wanted = None
            self._require_session(session_id)
            return settle.settle(store, session_id, outcomes, wanted, now_ms)

        return self._once(op, "settle", act, recall=lambda reply: self._recall(session_id, reply))

    def _recall(self, session_id: str, reply: SettleReply) -> SettleReply:
        """The first reply again, with those of its deliveries that the session still holds."""
        rows = [(each, self.store.rows.get(each.id)) for each in reply.deliveries]
        held = tuple(
            delivery_of(row)
            for each, row in rows
            if row is not None and row.status == "active" and row.token == each.completion_token
        )
        asked = settle.cancel_requested(self.store, session_id)
        return SettleReply(reply.settled, held, asked, more=True, next_due_in_ms=None)

    async def wait(self, queues: Sequence[str], job_ids: Sequence[str], timeout_ms: int) -> bool:
        self._open()
        return await self.hub.wait(queues, job_ids, timeout_ms)

    def bind(self, connection: object) -> Bound:
        raise InvalidOption("conn", connection, "the memory store has no transactions to join")

    async def begin(self) -> Transaction:
        raise no_transactions("in-memory")

    # ── worker sessions ───────────────────────────────────────────────────────────────────────────────────────────────
    async def open_session(self, op: Op, session: Session) -> Renewal:
        def act(store: Store, now_ms: int) -> Renewal:
            if session.id in store.sessions:
                raise InvalidState(f"session {session.id!r} was used before. Give each worker start a new id")
            until_ms = store.mono_ms() + session.lease_ms
            store.sessions[session.id] = Lease(session=session, until_mono_ms=until_ms, opened_at_ms=now_ms)
            return self._renewal(session.id)

        return self._once(op, "open_session", act)

    def keeper(self) -> SessionKeeper:
        return Keeper(self.renew)

    def renew(self, session_id: str) -> Renewal:
        with self.lock_of_store:
            store = self._open()
            lease = store.sessions.get(session_id)
            if lease is not None and lease.closed_mono_ms is None:
                settle.renew(store, lease)
                store.journal.commit()
            return self._renewal(session_id)

    def _renewal(self, session_id: str) -> Renewal:
        store = self.store
        lease, now_ms = store.sessions.get(session_id), store.now_ms()
        if lease is None or lease.closed_mono_ms is not None:
            return Renewal(False, (), (), now_ms)
        paused = tuple(queue for queue in lease.session.queues if is_paused(store.limits.get((queue, None)), now_ms))
        return Renewal(True, settle.cancel_requested(store, session_id), paused, now_ms)

    async def close_session(self, op: Op, session_id: str) -> Done:
        return self._once(
            op, "close_session", lambda store, now_ms: settle.close_session(store, session_id, ITEMS_MAX, now_ms)
        )

    # ── bounded maintenance ───────────────────────────────────────────────────────────────────────────────────────────
    async def reap(self, limit: int) -> Done:
        check_limit(limit)
        return self._step(lambda store, now_ms: settle.reap(store, limit, now_ms))

    async def promote(self, queues: Sequence[str], limit: int) -> Done:
        check_limit(limit)

        def act(store: Store, now_ms: int) -> Done:
            if fence.starts_nothing(store):
                return Done(more=lifecycle.follow_through(store, now_ms, limit))
            expired, more_expired = lifecycle.expire(store, queues, now_ms, limit)
            due, more_due = lifecycle.promote(store, queues, now_ms, limit)
            is_left_over = lifecycle.follow_through(store, now_ms, limit)
            next_in_ms = lifecycle.next_due_in_ms(store, queues, now_ms)
            return Done((*expired, *due), more=more_expired or more_due or is_left_over, next_in_ms=next_in_ms)

        return self._step(act)

    async def prune(self, limit: int) -> Done:
        check_limit(limit)
        if fence.starts_nothing(self._open()):
            return Done()
        return self._step(lambda store, now_ms: maintenance.prune(store, limit, now_ms))

    # ── reading and operating ─────────────────────────────────────────────────────────────────────────────────────────
    async def get(self, ids: Sequence[str]) -> tuple[JobView | None, ...]:
        store = self._open()
        rows = [store.rows.get(job_id) for job_id in ids]
        return tuple(operating.view(store, row, store.now_ms()) if row else None for row in rows)

    async def holders(self, unique: Sequence[str], idempotency: Sequence[str]) -> Holders:
        check_keys(unique, idempotency)
        return operating.holders(self._open(), unique, idempotency)

    async def list_jobs(self, where: Filter, cursor: str | None, limit: int) -> Page:
        check_limit(limit)
        store = self._open()
        return operating.list_jobs(store, where, cursor, limit, store.now_ms())

    async def queues(self, prefix: str, cursor: str | None, limit: int) -> tuple[tuple[QueueInfo, ...], str | None]:
        check_limit(limit)
        return operating.queues(self._open(), prefix, cursor, limit)

    async def lane_limits(
        self, queue: str, prefix: str, cursor: str | None, limit: int
    ) -> tuple[tuple[Limits, ...], str | None]:
        check_limit(limit)
        return operating.lane_limits(self._open(), queue, prefix, cursor, limit)

    async def sessions(self, cursor: str | None, limit: int) -> tuple[tuple[SessionInfo, ...], str | None]:
        check_limit(limit)
        return operating.sessions(self._open(), cursor, limit)

    async def amend(
        self, op: Op, where: Filter, change: Change, cursor: str | None, limit: int, effects: Effects = NO_EFFECTS
    ) -> Amended:
        check_limit(limit)
        check_jobs((), effects)

        def act(store: Store, now_ms: int) -> Amended:
            fence.require_change(store)
            amended = operating.amend(store, where, change, cursor, limit, now_ms)
            if amended.changed:
                intake.apply_effects(store, effects, now_ms)
            return amended

        return self._once(op, "amend", act)

    async def put_limits(
        self, op: Op, limits: Sequence[Limits], effects: Effects = NO_EFFECTS, *, only: Sequence[str] = ()
    ) -> None:
        check_jobs((), effects)

        def act(store: Store, now_ms: int) -> None:
            fence.require_change(store)
            operating.put_limits(store, limits, only)
            intake.apply_effects(store, effects, now_ms)

        self._once(op, "put_limits", act)

    # ── schedules ─────────────────────────────────────────────────────────────────────────────────────────────────────
    async def put_schedule(self, op: Op, schedule: Schedule, *, delete: bool = False) -> Schedule:
        def act(store: Store, now_ms: int) -> Schedule:
            fence.require_enqueue(store)
            return operating.put_schedule(store, schedule, delete=delete)

        return self._once(op, "put_schedule", act)

    async def list_schedules(self, cursor: str | None, limit: int) -> tuple[tuple[Schedule, ...], str | None]:
        check_limit(limit)
        return operating.list_schedules(self._open(), cursor, limit)

    async def fire(
        self, op: Op, schedule: Schedule, nominal_ms: int, jobs: Sequence[NewJob], next_at_ms: int | None
    ) -> bool:
        check_jobs(jobs, NO_EFFECTS)

        def act(store: Store, now_ms: int) -> bool:
            fence.require_enqueue(store)
            return operating.fire(store, schedule, nominal_ms, jobs, next_at_ms, now_ms)[0]

        return self._once(op, "fire", act)

    # ── shared memory of plugins ──────────────────────────────────────────────────────────────────────────────────────
    async def write_state(self, op: Op, effects: Effects) -> tuple[int, ...]:
        check_jobs((), effects)

        def act(store: Store, now_ms: int) -> tuple[int, ...]:
            fence.require_enqueue(store, effects.jobs) if effects.jobs else fence.require_change(store)
            return tuple(intake.apply_effects(store, effects, now_ms)[0])

        return self._once(op, "write_state", act)

    async def read_state(self, keys: Sequence[str]) -> tuple[Item | None, ...]:
        cells = [intake.live_cell(self._open(), key) for key in keys]
        return tuple(cell.item if cell else None for cell in cells)

    async def scan_state(self, prefix: str, cursor: str | None, limit: int) -> tuple[tuple[Item, ...], str | None]:
        check_limit(limit)
        store = self._open()
        keys = sorted(key for key in store.cells if key.startswith(prefix) and (cursor is None or key > cursor))
        cells = [cell for key in keys if (cell := intake.live_cell(store, key)) is not None]
        page = tuple(cell.item for cell in cells[:limit])
        return page, page[-1].key if len(cells) > limit else None

    async def read_records(self, stream: str, after_seq: int, limit: int) -> tuple[Stored, ...]:
        check_limit(limit)
        store = self._open()
        last = store.streams.get(stream, 0)
        lines = (store.records.get((stream, seq)) for seq in range(after_seq + 1, last + 1))
        return tuple(line.stored for line in lines if line is not None)[:limit]

    async def lock(self, op: Op, name: str, holder: str, lease_ms: int) -> Lock:
        def act(store: Store, now_ms: int) -> Lock:
            fence.require_change(store)
            return operating.lock(store, name, holder, lease_ms)

        return self._once(op, "lock", act)

    # ── best-effort messages ──────────────────────────────────────────────────────────────────────────────────────────
    async def publish(self, topic: str, bodies: Sequence[bytes]) -> None:
        self._open()
        check_bodies(bodies)
        self.hub.publish(topic, bodies)

    def subscribe(self, topics: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        self._open()
        return self.hub.subscribe(self, topics)

    # ── the fence ──────────────────────────────────────────────────────────────────────────────────────────────
    async def set_mode(self, op: Op, mode: Mode, epoch: int, moved_to: str = "") -> Info:
        def act(store: Store, now_ms: int) -> None:
            if epoch != store.epoch + 1:
                raise StateConflict("epoch of the namespace", epoch - 1, store.epoch)
            store.mode, store.epoch, store.moved_to = mode, epoch, moved_to
            self.hub.wake_all()

        self._once(op, "set_mode", act, is_change=True)
        return await self.info()

    # ── moving house ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def export_part(self, part: Part, cursor: str | None, limit: int) -> Exported:
        check_limit(limit)
        return moving.export_part(self._open(), part, cursor, limit)

    async def import_part(self, op: Op, items: Sequence[Moved]) -> int:
        check_moved(items)

        def act(store: Store, now_ms: int) -> int:
            if store.mode == "moved":
                raise NamespaceMoved(store.moved_to)
            return moving.import_part(store, items)

        return self._once(op, "import_part", act)

    async def drop_part(self, op: Op, items: Sequence[Moved]) -> int:
        check_moved(items)
        return self._once(op, "drop_part", lambda store, now_ms: moving.drop_part(store, items))

    # ── proof ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def check(self, cursor: str | None, limit: int) -> tuple[tuple[str, ...], str | None]:
        return check.broken(self._open(), cursor, limit)

    async def advance_clock(self, by_ms: int) -> None:
        if not self._capabilities.test_clock:
            raise InvalidState("this store was not opened with test_clock=True: its clock cannot be moved")
        self._open().advance_clock(by_ms)
        self.hub.wake_all()

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _open(self) -> Store:
        if not self._is_connected:
            raise StoreUnavailable("the memory store is not connected: call connect()", outcome="refused")
        return self.store

    def _once(
        self,
        op: Op,
        verb: str,
        act: Callable[[Store, int], R],
        *,
        recall: Callable[[R], R] = lambda reply: reply,
        is_change: bool = False,
    ) -> R:
        """One step under its op: done, replayed, or refused as a late duplicate."""
        with self.lock_of_store:
            turn = self._open().turns.get((op.client, op.channel))
            if turn is not None and op.turn <= turn.op.turn:
                if op.turn < turn.op.turn or verb != turn.verb:
                    raise StaleOp(f"{verb}: turn {op.turn} of {op.client}/{op.channel} was followed by {turn.op.turn}")
                return recall(turn.reply)
            return self._step(act, after=lambda reply: self._record(op, verb, reply, is_change=is_change))

    def _record(self, op: Op, verb: str, reply: Any, *, is_change: bool) -> None:
        if is_change or self.store.journal.mark():
            self.store.turns[op.client, op.channel] = Turn(op, verb, reply, self.store.mono_ms())

    def _step(self, act: Callable[[Store, int], R], after: Callable[[R], None] = lambda reply: None) -> R:
        """All of it, or none."""
        with self.lock_of_store:
            store = self._open()
            try:
                reply = act(store, store.now_ms())
                after(reply)
            except BaseException:
                store.journal.roll_back()
                store.touched_queues.clear()
                store.ended_ids.clear()
                raise
            store.journal.commit()
            self.hub.wake(store.touched_queues, store.ended_ids)
            store.touched_queues.clear()
            store.ended_ids.clear()
            return reply

    def _require_session(self, session_id: str) -> None:
        lease = self.store.sessions.get(session_id)
        if lease is None or lease.closed_mono_ms is not None:
            raise SessionLost(session_id)
