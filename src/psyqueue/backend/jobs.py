"""What an enqueue carries: the job and everything that must become true together with a step."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from psyqueue.job import Status

WINDOW_MS_DEFAULT = 86_400_000


class Op(Struct, frozen=True):
    """Identity of one mutating call, so that it can be repeated until its outcome is known.

    `client` is random per connected process. Each channel of a client has one call in flight; turns count 1, 2, 3, ….
    The store keeps per channel the last turn that changed something and its compact reply (no payloads):
    the same turn again does nothing and returns that reply, a higher one is done, a lower one is `StaleOp`.
    """

    client: str
    channel: int
    turn: int


class Unique(Struct, frozen=True):
    """One live holder per key. Taken at enqueue and at replay; let go in the step that leaves the statuses of `while_`.

    `while_` always holds waiting, scheduled and pending. `on_conflict`: `existing` (the holder is returned), `reject`
    (`KeyConflict`), `replace` (payload, cold, priority, run_at, expiry and digest of a holder that has not started;
    an active one is returned as it is).
    """

    key: str
    while_: tuple[Status, ...] = ("waiting", "scheduled", "pending", "active")
    on_conflict: Literal["existing", "replace", "reject"] = "existing"


class Idempotency(Struct, frozen=True):
    """The first enqueue of the key wins for `window_ms` (monotone clock), also after its job is gone.

    A job with another `digest` is refused with `KeyConflict`.
    """

    key: str
    window_ms: int = WINDOW_MS_DEFAULT


class Dependency(Struct, frozen=True):
    """Met when `job_id` ends in one of `on`. When it ends otherwise, this job is cancelled (reason `dependency`)."""

    job_id: str
    on: tuple[Status, ...] = ("completed",)


class Gate(Struct, frozen=True):
    """At most `capacity` jobs of `key` are past waiting and not ended; the others wait their turn. 1 = order key.

    The place is taken when a job leaves `waiting` (or never enters it) and kept over retries until it ends.
    """

    key: str
    capacity: int = 1


class NewJob(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """A job on its way in. `payload` and `cold` are UTF-8 JSON that the store never parses.

    `digest` stands for the content that the caller chose: the same id (or idempotency key) with another digest is a
    conflict, with the same digest it is the same job. `delay_ms` counts from the store's now; `run_at_ms` is an instant
    of the store's wall clock; the later of both wins. `expires_in_ms`: dead(`expired`) if not started by then.
    """

    id: str
    queue: str
    name: str
    payload: bytes
    cold: bytes = b"{}"
    digest: bytes = b""
    priority: int = 0
    max_retries: int = 3
    max_lost: int = 2
    lane: str = ""
    delay_ms: int = 0
    run_at_ms: int | None = None
    expires_in_ms: int | None = None
    schedule_id: str | None = None
    unique: Unique | None = None
    idempotency: Idempotency | None = None
    gate: Gate | None = None
    needs: tuple[Dependency, ...] = ()


class StateWrite(Struct, frozen=True, kw_only=True):
    """One write to the shared state of plugins.

    `put` (`value`; `expected` version, None = any, 0 = absent) · `add` (`number` to an integer, absent = 0) ·
    `take` (`number` tokens from a bucket of `capacity`, refilled by `refill_per_minute`) · `delete` (with `expected`).
    Versions of a key start at 1 and grow by 1 with each write. `ttl_ms` (monotone clock): gone after that.
    A failed precondition refuses the unit that it rides on: the whole call (`StateConflict`, `RateLimitError`), or that
    one outcome (verdict `conflict`).
    """

    kind: Literal["put", "add", "take", "delete"]
    key: str
    value: bytes = b""
    number: int = 0
    expected: int | None = None
    ttl_ms: int | None = None
    capacity: int = 0
    refill_per_minute: int = 0


class Record(Struct, frozen=True):
    """Appended to `stream`; the store gives the number (gapless per stream, in commit order) and the time."""

    stream: str
    body: bytes
    ttl_ms: int | None = None


class Effects(Struct, frozen=True):
    """What becomes true in the same step: first `writes`, then `jobs`, then `records`, each in its order.

    Follow-up jobs do not fail a step for being there already: a taken id or key is reported as `existing`
    (`created=False`), and limits do not apply to them. An unknown parent refuses the unit.
    """

    jobs: tuple[NewJob, ...] = ()
    writes: tuple[StateWrite, ...] = ()
    records: tuple[Record, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.jobs or self.writes or self.records)


NO_EFFECTS = Effects()


class Enqueued(Struct, frozen=True, gc=False):
    """`created=False`: `job_id` is the job that was there before. `status` None: it is gone, its key still counts."""

    job_id: str
    created: bool
    status: Status | None
