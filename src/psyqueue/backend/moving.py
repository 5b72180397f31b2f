"""What a store hands over when its jobs move to another one: all it knows, as values that mean the same everywhere.

Times that run (leases, windows) are given as what is left of them: the monotone clocks of two stores have nothing in
common. Numbers that give an order are those of the exporting store; the mover shifts them.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from msgspec import Struct

from psyqueue.backend.jobs import NewJob
from psyqueue.backend.reading import Item, Limits, Schedule, Stored
from psyqueue.job import Status

Part: TypeAlias = Literal[
    "numbers", "limits", "schedules", "fires", "state", "streams", "records", "locks", "keys", "jobs", "needs"
]
PARTS: tuple[Part, ...] = get_args(Part)
"""In the order in which they can be imported: a need wants its two jobs there."""


class Numbers(Struct, frozen=True):
    """The last creation number and the last ready number that were given. Imported: raised to these, never lowered.

    A store may draw both from one sequence, which is then raised to the greater one; a job that is as it was right
    after its enqueue has one number there, the ready one.
    """

    made: int
    ready: int


class MovedFire(Struct, frozen=True):
    """A schedule fired for this nominal time, and must not do so again."""

    schedule_id: str
    nominal_ms: int


class MovedState(Struct, frozen=True, kw_only=True):
    """`level`, `age_ms`: of a bucket, in 1/60,000 of a token, and how long ago that was. `left_ms` None: for good."""

    item: Item
    left_ms: int | None = None
    level: int | None = None
    age_ms: int = 0


class MovedStream(Struct, frozen=True):
    """The last number given in a stream, also when its records are gone."""

    stream: str
    seq: int


class MovedRecord(Struct, frozen=True):
    stream: str
    stored: Stored
    left_ms: int | None


class MovedLock(Struct, frozen=True):
    """`left_ms` is 0 once it was let go; the fence still counts."""

    name: str
    holder: str
    fence: int
    left_ms: int


class MovedKey(Struct, frozen=True):
    """An idempotency key whose window is open."""

    key: str
    job_id: str
    digest: bytes
    left_ms: int


class MovedJob(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One job with its past; what is left out is as it was right after its enqueue.

    `job` is as in `JobView`; the instants stand beside it. As an array, since names would be half of what is digested.

    `number`: its place in the order of creation. `has_key`: it holds its unique key. `is_needed`: a job that has not
    ended lists it among its needs. A place at its gate is not told: it has one if it is scheduled, pending or active.
    """

    job: NewJob
    number: int
    ready_number: int | None
    created_at_ms: int
    run_at_ms: int
    status: Status = "pending"
    attempt: int = 0
    lost: int = 0
    fence: int = 0
    generation: int = 0
    needs_left: int = 0
    held: bool = False
    cancel_requested: bool = False
    has_key: bool = False
    is_needed: bool = False
    reason: str = ""
    started_at_ms: int | None = None
    completed_at_ms: int | None = None
    expires_at_ms: int | None = None
    result: bytes | None = None
    errors: tuple[bytes, ...] = ()


class MovedNeed(Struct, frozen=True):
    """`job_id`, which has not ended, needs `parent_id` to end in one of `on`; `met`: it did.

    `on` is in the order of `STATUSES`.
    """

    job_id: str
    parent_id: str
    on: tuple[Status, ...]
    met: bool


Moved: TypeAlias = (
    Numbers
    | Limits
    | Schedule
    | MovedFire
    | MovedState
    | MovedStream
    | MovedRecord
    | MovedLock
    | MovedKey
    | MovedJob
    | MovedNeed
)


class Exported(Struct, frozen=True):
    """A page of a part. It may be short or empty; only `cursor=None` is the end."""

    items: tuple[Moved, ...]
    cursor: str | None
