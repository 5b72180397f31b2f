"""The storage seam: what a backend must do, and nothing that can be composed above it.

Rules that hold for every verb:

- *Atomic.* One call is one step: all of it is visible and durable, or none. Inside a step effects apply in the order
  given, as if one after another.
- *Repeatable.* A mutating verb carries an `Op`; see there. The record of an op is looked at before anything else, so a
  repeated call gets its first reply also when the mode or the session has changed since. A call that changed nothing
  is not recorded and may be done again.
- *Time.* `*_ms` are integers. Instants are the store's wall clock; leases, locks, windows and buckets use its monotone
  clock (wall + kept offset: it stands still while the wall goes back). Client clocks never enter.
- *Bytes.* payload, cold, result, error, state values and records are opaque UTF-8 JSON.
- *Bounds.* At most `Capabilities.batch_max` items and 8 MiB a call, either way: `TooLarge` before anything is sent.
- *Errors.* `Refused` and its children: nothing was written. `StoreUnavailable(outcome="unknown")`: repeat with the same
  `Op`. `StoreBusy`, `StoreFull`: nothing was written. Anything of a driver is only ever the `__cause__`.
- *Follow-through.* When a job ends, its gate's next job and the jobs that need it move in the same step, up to 500 of
  them; what is left is done by the next `promote` or fetch of any client.

Source: the shape follows River's driver seam and Oban's engine; the batch-shaped `settle` is our own (docs/adr/0001).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from psyqueue.backend.jobs import NO_EFFECTS, Effects, Enqueued, NewJob, Op
from psyqueue.backend.moving import Exported, Moved, Part
from psyqueue.backend.outcomes import AnyOutcome, Fetch, Renewal, Session, Settled, SettleReply
from psyqueue.backend.reading import (
    Amended,
    Capabilities,
    Change,
    Done,
    Filter,
    Holders,
    Info,
    Item,
    JobView,
    Limits,
    Lock,
    Mode,
    Page,
    QueueInfo,
    Schedule,
    SessionInfo,
    Stored,
)
from psyqueue.backend.transactions import Transaction


class SessionKeeper(Protocol):
    """The one blocking part: called from the lease thread, on a connection of its own, never through the event loop."""

    def renew(self, session_id: str) -> Renewal:
        """Extend the lease to now + lease. Raises StoreError; the caller tries again until it knows."""
        ...

    def close(self) -> None: ...


class Bound(Protocol):
    """Verbs inside the caller's own transaction: true if and only if the caller commits. No Op, no retry."""

    async def enqueue(self, jobs: Sequence[NewJob], effects: Effects = NO_EFFECTS) -> tuple[Enqueued, ...]: ...
    async def settle(self, session_id: str, outcomes: Sequence[AnyOutcome]) -> tuple[Settled, ...]: ...


class BackendAdapter(Protocol):
    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def capabilities(self) -> Capabilities: ...

    async def connect(self) -> Info:
        """Open the store, create or upgrade its schema under a lock. Idempotent. Raises StoreUnusable, SchemaTooNew."""
        ...

    async def disconnect(self) -> None:
        """Finish what was accepted, then let go of everything. Idempotent."""
        ...

    async def info(self) -> Info: ...

    # ── the hot path ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def enqueue(self, op: Op, jobs: Sequence[NewJob], effects: Effects = NO_EFFECTS) -> tuple[Enqueued, ...]:
        """All jobs, or none. Replies in the order of `jobs`, then of `effects.jobs`.

        For each job in order: the id exists → same digest: that job, other digest: IdConflict. Its idempotency key
        lives → that job, or KeyConflict. Its unique key is held → by `on_conflict`. A parent is unknown →
        UnknownDependency. Then limits: QueueFull. Else it is new: waiting, scheduled or pending.
        """
        ...

    async def settle(
        self, op: Op, session_id: str, outcomes: Sequence[AnyOutcome], fetch: Fetch | None = None
    ) -> SettleReply:
        """The heart: outcomes in order, then the next deliveries, in one step.

        In between, in the fetched queues, expired jobs end and due ones are promoted, and what the ended jobs set free
        moves (follow-through). One bad outcome never spoils the others. Raises SessionLost if the session is closed.
        In a mode without dequeue (filling, frozen, moved) a call with outcomes returns no deliveries, one without
        outcomes raises NamespaceFrozen or NamespaceMoved.
        """
        ...

    async def wait(self, queues: Sequence[str], job_ids: Sequence[str], timeout_ms: int) -> bool:
        """True: look again, a job may be pending in `queues` or one of `job_ids` may have ended. False: timeout.

        May be wrong either way; a caller looks at the store again within a time of its own. It is registered when the
        coroutine first suspends: start it, look once more, then await it, and nothing is missed in between.
        """
        ...

    def bind(self, connection: object) -> Bound:
        """Raises InvalidOption if the connection is not of `capabilities.binds`, or is open on another store."""
        ...

    async def begin(self) -> Transaction:
        """A transaction of its own for a handler. Raises InvalidState unless `capabilities.has_transactions`."""
        ...

    # ── worker sessions: the lease ────────────────────────────────────────────────────────────────────────────────────
    async def open_session(self, op: Op, session: Session) -> Renewal:
        """Raises InvalidState if the id was used before."""
        ...

    def keeper(self) -> SessionKeeper: ...

    async def close_session(self, op: Op, session_id: str) -> Done:
        """Close it and release what it holds (as `Release`, ≤ 500 a call; `more`: again). Closed before: nothing."""
        ...

    # ── bounded maintenance: anybody, any time, no leader ─────────────────────────────────────────────────────────────
    async def reap(self, limit: int) -> Done:
        """Close sessions whose lease ended, then take back their jobs, `limit` at most; ids are the jobs'.

        Each job, its loss counted, its token void: cancelled (if asked) · dead(`lost`) if lost > max_lost ·
        dead(`exhausted`) if attempt > max_retries · pending at its old place (first loss) · scheduled with back-off.
        If nobody reaped for more than 60 s, every open session first gets one lease of grace and nothing is reaped.
        """
        ...

    async def promote(self, queues: Sequence[str], limit: int) -> Done:
        """Due jobs → pending, expired ones → dead, left-over follow-through done; `limit` of each at most.

        While frozen or moved only the follow-through.
        """
        ...

    async def prune(self, limit: int) -> Done:
        """Delete what no rule keeps, `limit` of each kind: ended jobs, keys, state, records, ops, sessions, lanes.

        While frozen or moved nothing.
        """
        ...

    # ── reading and operating ─────────────────────────────────────────────────────────────────────────────────────────
    async def get(self, ids: Sequence[str]) -> tuple[JobView | None, ...]: ...

    async def holders(self, unique: Sequence[str], idempotency: Sequence[str]) -> Holders:
        """Who has these unique keys, and who opened the windows of these idempotency keys, `batch_max` of each kind."""
        ...

    async def list_jobs(self, where: Filter, cursor: str | None, limit: int) -> Page: ...

    async def queues(self, prefix: str, cursor: str | None, limit: int) -> tuple[tuple[QueueInfo, ...], str | None]:
        """By name. A queue is known while it has jobs or limits."""
        ...

    async def lane_limits(
        self, queue: str, prefix: str, cursor: str | None, limit: int
    ) -> tuple[tuple[Limits, ...], str | None]:
        """Settings of the lanes in `queue` that were given some, by lane, the default one (`""`) among them."""
        ...

    async def sessions(self, cursor: str | None, limit: int) -> tuple[tuple[SessionInfo, ...], str | None]:
        """Open sessions by id."""
        ...

    async def amend(
        self, op: Op, where: Filter, change: Change, cursor: str | None, limit: int, effects: Effects = NO_EFFECTS
    ) -> Amended:
        """`change` to what matches, `limit` at most; `effects` apply once, if anything was changed."""
        ...

    async def put_limits(
        self, op: Op, limits: Sequence[Limits], effects: Effects = NO_EFFECTS, *, only: Sequence[str] = ()
    ) -> None:
        """Replace the settings of each (queue, lane); with `only` just these (names of `SETTINGS`), the others stay.

        So that two who change different settings at once both have their way. What is all back at the defaults is
        forgotten, with its place in `queues` and `lane_limits` and what its start rate had used up.
        """
        ...

    # ── schedules ─────────────────────────────────────────────────────────────────────────────────────────────────────
    async def put_schedule(self, op: Op, schedule: Schedule, *, delete: bool = False) -> Schedule:
        """Compare and set on `version` (0 = must not exist); returns it with the new version. Raises StateConflict."""
        ...

    async def list_schedules(self, cursor: str | None, limit: int) -> tuple[tuple[Schedule, ...], str | None]:
        """By id."""
        ...

    async def fire(
        self, op: Op, schedule: Schedule, nominal_ms: int, jobs: Sequence[NewJob], next_at_ms: int | None
    ) -> bool:
        """Enqueue `jobs` (as follow-ups) once per (schedule, nominal time), and set when it is next due.

        False, and nothing changed: fired before, another version, or gone.
        """
        ...

    # ── shared memory of plugins ──────────────────────────────────────────────────────────────────────────────────────
    async def write_state(self, op: Op, effects: Effects) -> tuple[int, ...]:
        """All or none. Per write: the new version (put), the number (add), the tokens left (take), 0 (delete).

        While frozen or moved raises NamespaceFrozen or NamespaceMoved: what is being copied must not change.
        """
        ...

    async def read_state(self, keys: Sequence[str]) -> tuple[Item | None, ...]: ...

    async def scan_state(self, prefix: str, cursor: str | None, limit: int) -> tuple[tuple[Item, ...], str | None]:
        """In key order."""
        ...

    async def read_records(self, stream: str, after_seq: int, limit: int) -> tuple[Stored, ...]: ...

    async def lock(self, op: Op, name: str, holder: str, lease_ms: int) -> Lock:
        """Take or renew for `lease_ms`; 0 lets go. Renewing keeps the fence; a new holding gets a greater one.

        Raises NamespaceFrozen or NamespaceMoved, as `write_state` does.
        """
        ...

    # ── best-effort messages between processes ────────────────────────────────────────────────────────────────────────
    async def publish(self, topic: str, bodies: Sequence[bytes]) -> None:
        """To whoever listens now, at most once; a slow listener misses some. Bodies ≤ 8 KiB each."""
        ...

    def subscribe(self, topics: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        """(topic, body) from the first step of the iteration on; ends when closed or on disconnect."""
        ...

    # ── the fence of the namespace ────────────────────────────────────────────────────────────────────────────────────
    async def set_mode(self, op: Op, mode: Mode, epoch: int, moved_to: str = "") -> Info:
        """Takes effect for every step that starts after it. `epoch` must be the present one + 1, else StateConflict.

        Returns when no step that started before can still commit what the mode forbids. Raises StoreBusy if one in a
        transaction of a caller's own goes on for too long: then the mode is set, and the same call goes on waiting.
        """
        ...

    # ── moving house ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def export_part(self, part: Part, cursor: str | None, limit: int) -> Exported:
        """Everything of one kind, at most `limit` items and about 8 MiB a page, each once; jobs that are active too.

        In any mode; but only while nothing can change (frozen or moved, no job active, no follow-through left) are the
        pages one picture of the store, and the same ones when asked again.
        """
        ...

    async def import_part(self, op: Op, items: Sequence[Moved]) -> int:
        """Write what another store exported, whole and in order; how many were not there yet.

        Only while nothing can start (frozen, filling), or, in any mode but moved, jobs that are held and their needs:
        else InvalidState. What is there stays as it is, a state key of a lower version apart. A job by the same id with
        another digest → IdConflict; a key that another job has → KeyConflict; a need of an unknown job →
        UnknownDependency; an active job → InvalidState. Numbers of jobs have to be free, and those given later are
        above them. A job past waiting whose gate is full by others waits in line. No limits apply, and nothing follows:
        what could start, starts once the mode allows it.
        """
        ...

    async def drop_part(self, op: Op, items: Sequence[Moved]) -> int:
        """Forget what was imported, or exported to stay elsewhere, without a trace; how many were there.

        Items of the same id and content only. A job: the same digest, not active, and the mode is frozen, or it is held
        and no job that has not ended needed it before the call. Its keys, its place at its gate and its needs go with
        it, and nothing moves up for that. Numbers stay, needs go with their jobs alone, and what was saved up under a
        rate goes with its limits.
        """
        ...

    # ── proof ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def check(self, cursor: str | None, limit: int) -> tuple[tuple[str, ...], str | None]:
        """Broken invariants in words, `limit` jobs a call; none = whole."""
        ...

    async def advance_clock(self, by_ms: int) -> None:
        """Move the store's wall clock, back too. Only where `capabilities.test_clock`; else InvalidState."""
        ...
