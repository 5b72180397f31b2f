"""The seam on SQLite: each verb is one step, sent to the writer or to the reader."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

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
from psyqueue.backend.transactions import no_transactions
from psyqueue.backends._sqlite import (
    binding,
    checks,
    maintenance,
    moving_in,
    moving_out,
    operating,
    reading,
    sessions,
    verbs,
)
from psyqueue.backends._sqlite import effects as shared
from psyqueue.backends._sqlite.client import Client
from psyqueue.backends._sqlite.options import SqliteOptions
from psyqueue.backends._sqlite.settle import settle
from psyqueue.backends._sqlite.step import Step
from psyqueue.backends._sqlite.turns import ENQUEUE, Verb, about, once, plain, settle_verb
from psyqueue.errors import InvalidState

R = TypeVar("R")
_OPEN = plain("open_session", Renewal)
_CLOSE = plain("close_session", Done)
_AMEND = plain("amend", Amended)
_LIMITS = plain("put_limits", type(None))
_SCHEDULE = plain("put_schedule", Schedule)
_FIRE = plain("fire", bool)
_STATE: Verb[tuple[int, ...]] = plain("write_state", tuple[int, ...])
_LOCK = plain("lock", Lock)
_IMPORT = plain("import_part", int)
_DROP = plain("drop_part", int)
_MODE = plain("set_mode", type(None))


class SqliteBackend:
    """All jobs in one file (or in `:memory:`). Many processes of one machine may use the same file at once."""

    def __init__(self, options: SqliteOptions) -> None:
        self._client = Client(options)
        self._options = options
        self._capabilities = Capabilities(
            wakes_across_processes=not options.is_memory,
            binds=() if options.is_memory else ("sqlite3.Connection",),
            binds_in_thread=True,
            test_clock=options.test_clock,
        )

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def options(self) -> SqliteOptions:
        return self._options

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def connect(self) -> Info:
        await self._client.connect()
        return await self.info()

    async def disconnect(self) -> None:
        await self._client.disconnect()

    async def info(self) -> Info:
        return await self._client.look(self._client.info)

    # ── the hot path ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def enqueue(self, op: Op, jobs: Sequence[NewJob], effects: Effects = NO_EFFECTS) -> tuple[Enqueued, ...]:
        check_jobs(jobs, effects)
        return await self._once(op, ENQUEUE, lambda step: verbs.enqueue(step, jobs, effects))

    async def settle(
        self, op: Op, session_id: str, outcomes: Sequence[AnyOutcome], fetch: Fetch | None = None
    ) -> SettleReply:
        check_outcomes(outcomes, fetch)
        verb = settle_verb(fetch.token_seed if fetch is not None else "")
        return await self._once(op, verb, lambda step: settle(step, session_id, outcomes, fetch), session_id)

    async def wait(self, queues: Sequence[str], job_ids: Sequence[str], timeout_ms: int) -> bool:
        return await self._client.waiting.wait(queues, job_ids, timeout_ms)

    def bind(self, connection: object) -> Bound:
        self._client.require_open()
        return binding.bind(self._options, connection)

    async def begin(self) -> Transaction:
        raise no_transactions("SQLite")

    # ── worker sessions ───────────────────────────────────────────────────────────────────────────────────────────────
    async def open_session(self, op: Op, session: Session) -> Renewal:
        return await self._once(op, _OPEN, lambda step: sessions.open_session(step, session))

    def keeper(self) -> SessionKeeper:
        return self._client.keeper()

    async def close_session(self, op: Op, session_id: str) -> Done:
        return await self._once(op, _CLOSE, lambda step: sessions.close_session(step, session_id, ITEMS_MAX))

    # ── bounded maintenance ───────────────────────────────────────────────────────────────────────────────────────────
    async def reap(self, limit: int) -> Done:
        check_limit(limit)
        return await self._client.write(lambda step: sessions.reap(step, limit))

    async def promote(self, queues: Sequence[str], limit: int) -> Done:
        check_limit(limit)
        return await self._client.write(lambda step: verbs.promote(step, queues, limit))

    async def prune(self, limit: int) -> Done:
        check_limit(limit)
        return await self._client.write(lambda step: maintenance.prune(step, limit))

    # ── reading and operating ─────────────────────────────────────────────────────────────────────────────────────────
    async def get(self, ids: Sequence[str]) -> tuple[JobView | None, ...]:
        return await self._client.look(lambda step: reading.get(step, ids))

    async def holders(self, unique: Sequence[str], idempotency: Sequence[str]) -> Holders:
        check_keys(unique, idempotency)
        return await self._client.look(lambda step: reading.holders(step, unique, idempotency))

    async def list_jobs(self, where: Filter, cursor: str | None, limit: int) -> Page:
        check_limit(limit)
        return await self._client.look(lambda step: reading.list_jobs(step, where, cursor, limit))

    async def queues(self, prefix: str, cursor: str | None, limit: int) -> tuple[tuple[QueueInfo, ...], str | None]:
        check_limit(limit)
        return await self._client.look(lambda step: reading.queues(step, prefix, cursor, limit))

    async def lane_limits(
        self, queue: str, prefix: str, cursor: str | None, limit: int
    ) -> tuple[tuple[Limits, ...], str | None]:
        check_limit(limit)
        return await self._client.look(lambda step: reading.lane_limits(step, queue, prefix, cursor, limit))

    async def sessions(self, cursor: str | None, limit: int) -> tuple[tuple[SessionInfo, ...], str | None]:
        check_limit(limit)
        return await self._client.look(lambda step: sessions.list_sessions(step, cursor, limit))

    async def amend(
        self, op: Op, where: Filter, change: Change, cursor: str | None, limit: int, effects: Effects = NO_EFFECTS
    ) -> Amended:
        check_limit(limit)
        check_jobs((), effects)
        return await self._once(op, _AMEND, lambda step: verbs.amend(step, where, change, cursor, limit, effects))

    async def put_limits(
        self, op: Op, limits: Sequence[Limits], effects: Effects = NO_EFFECTS, *, only: Sequence[str] = ()
    ) -> None:
        check_jobs((), effects)
        await self._once(op, _LIMITS, lambda step: verbs.set_limits(step, limits, effects, only))

    # ── schedules ─────────────────────────────────────────────────────────────────────────────────────────────────────
    async def put_schedule(self, op: Op, schedule: Schedule, *, delete: bool = False) -> Schedule:
        return await self._once(op, _SCHEDULE, lambda step: operating.put_schedule(step, schedule, delete=delete))

    async def list_schedules(self, cursor: str | None, limit: int) -> tuple[tuple[Schedule, ...], str | None]:
        check_limit(limit)
        return await self._client.look(lambda step: reading.list_schedules(step, cursor, limit))

    async def fire(
        self, op: Op, schedule: Schedule, nominal_ms: int, jobs: Sequence[NewJob], next_at_ms: int | None
    ) -> bool:
        check_jobs(jobs, NO_EFFECTS)
        return await self._once(op, _FIRE, lambda step: verbs.fire(step, schedule, nominal_ms, jobs, next_at_ms))

    # ── shared memory of plugins ──────────────────────────────────────────────────────────────────────────────────────
    async def write_state(self, op: Op, effects: Effects) -> tuple[int, ...]:
        check_jobs((), effects)
        return await self._once(op, _STATE, lambda step: verbs.write_state(step, effects))

    async def read_state(self, keys: Sequence[str]) -> tuple[Item | None, ...]:
        return await self._client.look(lambda step: reading.read_state(step, keys))

    async def scan_state(self, prefix: str, cursor: str | None, limit: int) -> tuple[tuple[Item, ...], str | None]:
        check_limit(limit)
        return await self._client.look(lambda step: reading.scan_state(step, prefix, cursor, limit))

    async def read_records(self, stream: str, after_seq: int, limit: int) -> tuple[Stored, ...]:
        check_limit(limit)
        return await self._client.look(lambda step: reading.read_records(step, stream, after_seq, limit))

    async def lock(self, op: Op, name: str, holder: str, lease_ms: int) -> Lock:
        return await self._once(op, _LOCK, lambda step: shared.lock(step, name, holder, lease_ms))

    # ── best-effort messages ──────────────────────────────────────────────────────────────────────────────────────────
    async def publish(self, topic: str, bodies: Sequence[bytes]) -> None:
        check_bodies(bodies)
        self._client.waiting.publish(topic, bodies)

    def subscribe(self, topics: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        return self._client.waiting.subscribe(topics)

    # ── the fence ──────────────────────────────────────────────────────────────────────────────────────────────
    async def set_mode(self, op: Op, mode: Mode, epoch: int, moved_to: str = "") -> Info:
        act = lambda step: verbs.set_mode(step, mode, epoch, moved_to)  # noqa: E731
        await self._client.write(lambda step: once(step, op, _MODE, act, is_change=True), about(op))
        return await self.info()

    # ── moving house ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def export_part(self, part: Part, cursor: str | None, limit: int) -> Exported:
        check_limit(limit)
        return await self._client.look(lambda step: moving_out.export_part(step, part, cursor, limit))

    async def import_part(self, op: Op, items: Sequence[Moved]) -> int:
        check_moved(items)
        return await self._once(op, _IMPORT, lambda step: moving_in.import_part(step, items))

    async def drop_part(self, op: Op, items: Sequence[Moved]) -> int:
        check_moved(items)
        return await self._once(op, _DROP, lambda step: moving_in.drop_part(step, items))

    # ── proof ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def check(self, cursor: str | None, limit: int) -> tuple[tuple[str, ...], str | None]:
        return await self._client.look(lambda step: checks.broken(step, cursor, limit))

    async def advance_clock(self, by_ms: int) -> None:
        if not self._options.test_clock:
            raise InvalidState("this store was not opened with test_clock=True: its clock cannot be moved")
        await self._client.write(lambda step: verbs.advance_clock(step, by_ms))

    async def _once(self, op: Op, verb: Verb[R], act: Callable[[Step], R], session_id: str | None = None) -> R:
        return await self._client.write(lambda step: once(step, op, verb, act), about(op, session_id))
