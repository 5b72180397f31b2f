"""What operators read and change: jobs, queues, sessions, limits, schedules, state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from psyqueue.backend.jobs import NewJob
from psyqueue.backend.outcomes import Session
from psyqueue.job import Status

Mode: TypeAlias = Literal["open", "draining", "filling", "frozen", "moved"]
"""Of the namespace. draining: no enqueue, apart from calls with a job that needs another one, or whose gate is in use
there, and no schedule is written or fired. filling: no dequeue; no job becomes due, expires or is pruned. frozen: as
filling, and no enqueue, no operating, no writes to the shared state, no locks. moved: as frozen, for good.

Outcomes of deliveries are taken in every mode, with their effects: what was accepted is finished.
"""

Survives: TypeAlias = Literal["safe", "bounded_loss", "lost", "unknown"]


class Filter(Struct, frozen=True, kw_only=True):
    """All given conditions hold. Empty tuple or text = any. `text`: contained in the id, name, payload or cold text.

    Times are inclusive from, exclusive to. `ids` that do not exist are simply not found.
    """

    ids: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    statuses: tuple[Status, ...] = ()
    names: tuple[str, ...] = ()
    lanes: tuple[str, ...] = ()
    created_from_ms: int | None = None
    created_to_ms: int | None = None
    ended_before_ms: int | None = None
    text: str = ""
    reason: str = ""


class JobView(Struct, frozen=True, kw_only=True):
    """Everything the store knows about one job.

    In `job`, `delay_ms` is 0, `run_at_ms` the present one, `expires_in_ms` None; the instants stand beside it.
    `errors` are those of failed and lost runs, the last 20, oldest first. `blocked_by` says why it is not running, as
    codes: `held`, `needs:<parent id>`, `gate:<key>`, `run_at`, `paused:queue`, `paused:lane`, `limit:queue`,
    `limit:lane`, `rate:queue`, `rate:lane`, `mode:<mode>`.
    """

    job: NewJob
    status: Status
    attempt: int
    lost: int
    generation: int
    fence: int
    ready_number: int | None
    session_id: str | None
    worker: str | None
    held: bool
    cancel_requested: bool
    reason: str
    created_at_ms: int
    started_at_ms: int | None
    completed_at_ms: int | None
    run_at_ms: int
    expires_at_ms: int | None
    result: bytes | None
    errors: tuple[bytes, ...]
    blocked_by: tuple[str, ...]


class Page(Struct, frozen=True):
    """Order: queue name, then status (in the order of `STATUSES`), then an order of the store's own that stays.

    A page may be short or empty; only `cursor=None` is the end. A call looks at 1,000 jobs at most. A job that matches
    during the whole walk is returned exactly once.
    """

    jobs: tuple[JobView, ...]
    cursor: str | None


class Change(Struct, frozen=True, kw_only=True):
    """What an operator does to jobs; one that is not in a fitting status is skipped.

    cancel: unstarted → cancelled; active: asked for, the worker decides · replay: dead → pending or waiting, generation
    + 1, attempt and losses 0, skipped if its unique key is taken · delete: ended jobs that no live job waits for ·
    priority, run_at: unstarted · finish: unstarted → completed with `result` · hold: any but active, not startable and
    not changeable until unhold.
    """

    kind: Literal["cancel", "replay", "delete", "priority", "run_at", "finish", "hold", "unhold"]
    priority: int = 0
    run_at_ms: int = 0
    result: bytes = b"null"
    reason: str = ""


class Amended(Struct, frozen=True):
    """Ids that were changed; ids that were looked at and left alone, with their status (None: no such job)."""

    changed: tuple[str, ...]
    skipped: tuple[tuple[str, Status | None], ...]
    cursor: str | None


UNTIL_RESUMED = -1


class Limits(Struct, frozen=True, kw_only=True):
    """Settings of a queue (`lane=None`) or of one lane in it (`""` is the default lane). None = no limit.

    `paused_until_ms`: an instant of the wall clock, or `UNTIL_RESUMED`. `weight`: the lane's share. `active_max`: jobs
    running at once. `starts_per_minute` with `starts_burst`: a token bucket over dequeues. `pending_max`: waiting,
    scheduled and pending jobs together; an enqueue above it is refused. `retain_ended` (completed and cancelled) and
    `retain_dead`: (milliseconds, count), None = keep all; only a queue's count.
    """

    queue: str
    lane: str | None = None
    paused_until_ms: int | None = None
    weight: int = 1
    active_max: int | None = None
    starts_per_minute: int | None = None
    starts_burst: int = 1
    pending_max: int | None = None
    retain_ended: tuple[int, int] | None = (86_400_000, 10_000)
    retain_dead: tuple[int, int] | None = (7_776_000_000, 100_000)


SETTINGS: Final = tuple(field for field in Limits.__struct_fields__ if field not in {"queue", "lane"})


def limits_over(before: Limits | None, wanted: Limits, only: Sequence[str]) -> Limits:
    """What `put_limits` makes of the settings before (None: the defaults)."""
    if not only:
        return wanted
    base = before or Limits(queue=wanted.queue, lane=wanted.lane)
    return replace(base, **{name: getattr(wanted, name) for name in only})


def is_paused(limits: Limits | None, now_ms: int) -> bool:
    """Whether nothing of that queue or lane is started now."""
    until_ms = limits.paused_until_ms if limits is not None else None
    return until_ms is not None and (until_ms == UNTIL_RESUMED or until_ms > now_ms)


def are_defaults(limits: Limits) -> bool:
    """A store keeps nothing of them."""
    return limits == Limits(queue=limits.queue, lane=limits.lane)


class Schedule(Struct, frozen=True, kw_only=True):
    """A definition of repeated work; `spec` is JSON of the scheduler's own. `version` grows with each put."""

    id: str
    spec: bytes
    version: int = 0
    next_at_ms: int | None = None
    last_nominal_ms: int = 0
    paused: bool = False


class Item(Struct, frozen=True):
    """One state key. Of a counter or bucket, `value` is its number as JSON text (buckets in whole tokens)."""

    key: str
    value: bytes
    version: int


class Stored(Struct, frozen=True):
    seq: int
    at_ms: int
    body: bytes


class Lock(Struct, frozen=True):
    """`fence` grows with every new holding of the name, also over releases; None = `holder` is somebody else."""

    fence: int | None
    holder: str
    expires_in_ms: int


class QueueInfo(Struct, frozen=True):
    """Exact counts by status. `lanes` = lanes other than the default one with unstarted or active jobs."""

    queue: str
    counts: dict[str, int]
    oldest_pending_at_ms: int | None
    lanes: int
    limits: Limits


class SessionInfo(Struct, frozen=True):
    """`expires_in_ms` may be negative: late, not reaped yet."""

    session: Session
    held: int
    opened_at_ms: int
    expires_in_ms: int


class Holders(Struct, frozen=True):
    """Who has keys, in the order in which they were asked for; None = it is free.

    `unique`: the id of the live holder. `idempotency`: the id and the digest of the job that opened the window.
    """

    unique: tuple[str | None, ...]
    idempotency: tuple[tuple[str, bytes] | None, ...]


class Done(Struct, frozen=True):
    """Bounded maintenance: what was touched. `more`: call again now. `next_in_ms`: next work, None = unknown."""

    ids: tuple[str, ...] = ()
    more: bool = False
    next_in_ms: int | None = None

    @property
    def count(self) -> int:
        return len(self.ids)


class Info(Struct, frozen=True, kw_only=True):
    """Live facts of the store. `mode`, `epoch` and `moved_to` are the fence of the namespace."""

    store: str
    version: str
    schema: int
    now_ms: int
    mode: Mode
    epoch: int
    moved_to: str
    process_crash: Survives
    server_crash: Survives
    power_loss: Survives
    failover: Survives
    warnings: tuple[str, ...]


class Capabilities(Struct, frozen=True, kw_only=True):
    """How stores differ, as data.

    `enqueues_at_once`: how many calls a process with a crowd of callers makes beside each other; one where its own
    threads do the work of the store. `binds`: kinds of connection that `bind` takes, as `module.Class`.
    `binds_in_thread`: what `bind` gives never waits for the loop, and has to be called in the thread that owns the
    connection. `has_transactions`: `begin` gives one. `test_clock`: the store's clock stands still at
    `state_rules.TEST_EPOCH_MS` and moves only by `advance_clock`.
    """

    batch_max: int = 500
    enqueues_at_once: int = 1
    wakes_across_processes: bool = True
    binds: tuple[str, ...] = ()
    binds_in_thread: bool = False
    has_transactions: bool = False
    test_clock: bool = False
