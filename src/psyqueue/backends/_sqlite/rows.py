"""One job on the careful path: loaded whole, changed, written back. The hot paths never come here."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from psyqueue.backend import Dependency, Gate, Idempotency, NewJob, Unique
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import COMPLETED, NUMBER_OF, PENDING, SCHEDULED, Step
from psyqueue.job import ERRORS_KEPT, STATUSES, Status

# What has to be looked at when a job ends: an ack of a job without links is one row written, nothing read.
KEYED, GATED, NEEDY, NEEDED = 1, 2, 4, 8

_BY_N, _BY_ID, _SAVE = SQL["rows.by_n"], SQL["rows.by_id"], SQL["rows.save"]


class Extras(Struct, frozen=True, array_like=True):
    """What few jobs have, as it was enqueued. One blob, so that the others pay one NULL for all of it."""

    schedule_id: str | None = None
    unique: Unique | None = None
    idempotency: Idempotency | None = None
    gate: Gate | None = None
    needs: tuple[Dependency, ...] = ()


NO_EXTRAS = Extras()
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Extras)


def encode_extras(job: NewJob) -> bytes | None:
    if job.schedule_id is None and not (job.unique or job.idempotency or job.gate or job.needs):
        return None
    return _encoder.encode(Extras(job.schedule_id, job.unique, job.idempotency, job.gate, job.needs))


def decode_extras(data: bytes | None) -> Extras:
    return NO_EXTRAS if data is None else _decoder.decode(data)


class Row:
    """A job as `psyqueue_job` and the small columns of `psyqueue_body` have it, in the order of `rows.by_n`."""

    __slots__ = (
        "attempt",
        "cancel_requested",
        "completed_at_ms",
        "created_at_ms",
        "digest",
        "expires_at_ms",
        "extras",
        "fence",
        "gate",
        "generation",
        "has_place",
        "held",
        "id",
        "lane",
        "links",
        "lost",
        "max_lost",
        "max_retries",
        "n",
        "name",
        "needs_left",
        "priority",
        "queue",
        "ready_number",
        "reason",
        "run_at_ms",
        "session",
        "started_at_ms",
        "status",
        "token",
    )  # fmt: skip
    n: int
    queue: str
    lane: str
    status: int
    priority: int
    ready_number: int | None
    attempt: int
    lost: int
    fence: int
    generation: int
    links: int
    held: int
    cancel_requested: int
    needs_left: int
    has_place: int
    token: str | None
    session: int | None
    run_at_ms: int
    expires_at_ms: int | None
    started_at_ms: int | None
    completed_at_ms: int | None
    reason: str
    gate: str | None
    id: str
    name: str
    max_retries: int
    max_lost: int
    created_at_ms: int
    digest: bytes
    extras: Extras

    def __init__(self, values: tuple[Any, ...]) -> None:
        (
            self.n, self.queue, self.lane, self.status, self.priority, self.ready_number, self.attempt, self.lost,
            self.fence, self.generation, self.links, self.held, self.cancel_requested, self.needs_left,
            self.has_place, self.token, self.session, self.run_at_ms, self.expires_at_ms, self.started_at_ms,
            self.completed_at_ms, self.reason, self.gate,
            self.id, self.name, self.max_retries, self.max_lost, self.created_at_ms, self.digest, extras,
        ) = values  # fmt: skip
        self.extras = decode_extras(extras)

    @property
    def status_name(self) -> Status:
        return STATUSES[self.status]

    @property
    def is_ended(self) -> bool:
        return self.status >= COMPLETED

    @property
    def completion_token(self) -> str | None:
        """The token of its delivery, or the one that settled it last."""
        return None if self.token is None else f"{self.n}.{self.token}"


def load(step: Step, n: int) -> Row:
    return Row(step.run(_BY_N, (n,)).fetchone())


def find(step: Step, job_id: str) -> Row | None:
    values = step.run(_BY_ID, (job_id,)).fetchone()
    return Row(values) if values is not None else None


def status_of(step: Step, job_id: str) -> Status | None:
    found = step.run(SQL["rows.status_of"], (job_id,)).fetchone()
    return STATUSES[found[0]] if found is not None else None


def change(step: Step, row: Row, **fields: Any) -> Row:
    """Set the fields and write the row; counts follow its status."""
    before = row.status
    for name, value in fields.items():
        setattr(row, name, value)
    if row.status != before:
        step.count(row.queue, row.lane, before, -1)
        step.count(row.queue, row.lane, row.status, 1)
    step.run(
        _SAVE,
        (
            row.status, row.priority, row.ready_number, row.attempt, row.lost, row.fence, row.generation, row.links,
            row.held, row.cancel_requested, row.needs_left, row.has_place, row.token, row.session, row.run_at_ms,
            row.expires_at_ms, row.started_at_ms, row.completed_at_ms, row.reason, row.n,
        ),
    )  # fmt: skip
    if row.status in (PENDING, SCHEDULED):
        step.touched.add(row.queue)
    return row


def put_result(step: Step, row: Row, result: bytes | None) -> None:
    """JSON null is not kept: most handlers return nothing."""
    if result is not None and result != b"null":
        step.run(SQL["rows.put_result"], (row.n, result))


def put_error(step: Step, row: Row, error: bytes) -> None:
    (number,) = step.run(SQL["rows.put_error"], (row.n, row.n, error)).fetchone()
    if number > ERRORS_KEPT:
        step.run(SQL["rows.trim_errors"], (row.n, number - ERRORS_KEPT))


def drop(step: Step, row: Row) -> None:
    """The job is gone, with everything that only it has. Nobody needs it any more: the caller looked."""
    assert row.is_ended, row.id
    erase(step, row)


def erase(step: Step, row: Row) -> None:
    step.count(row.queue, row.lane, row.status, -1)
    let_go_unique_of(step, row)
    for statement in ("rows.drop_job", "rows.drop_body", "rows.drop_result", "rows.drop_errors"):
        step.run(SQL[statement], (row.n,))


def let_go_unique_of(step: Step, row: Row) -> None:
    """A unique key that outlived the end of its job goes with it."""
    unique = row.extras.unique
    if unique is not None:
        step.run(SQL["links.drop_unique"], (unique.key, row.n))


def mask_of(statuses: tuple[Status, ...]) -> int:
    """A bit for each status."""
    return sum({1 << NUMBER_OF[status] for status in statuses})


def statuses_of(mask: int) -> tuple[Status, ...]:
    return tuple(status for number, status in enumerate(STATUSES) if is_in(number, mask))


def is_in(status: int, mask: int) -> bool:
    return bool(mask >> status & 1)
