"""Bounds of one call, and the checks that every backend makes at its door before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence

from psyqueue.backend.jobs import Effects, NewJob
from psyqueue.backend.moving import Moved, MovedJob, MovedRecord, MovedState
from psyqueue.backend.outcomes import Ack, AnyOutcome, Dead, Fetch, Retry
from psyqueue.backend.reading import Schedule
from psyqueue.errors import InvalidOption, TooLarge
from psyqueue.job import NAME_LENGTH_MAX, PRIORITY_MAX

ITEMS_MAX = 500
"""A step holds the store's only writer: beyond this many items the others wait noticeably."""
CALL_BYTES_MAX = 8 << 20
FOLLOW_THROUGH_MAX = 500
"""Jobs moved in one step because another one ended (gates, needs); the rest waits for the next step."""
EXPIRE_MAX = 100
PROMOTE_MAX = 500
"""Expired and due jobs handled inside one fetch, per call."""
SCAN_MAX = 1_000
"""Jobs looked at by one page of a listing."""
KEY_LENGTH_MAX = 512
ATTEMPT_MAX = 1 << 31


def check_jobs(jobs: Sequence[NewJob], effects: Effects) -> None:
    """Raises TooLarge for too many items or bytes, InvalidOption for a field that no store could hold."""
    items, size = len(jobs), 0
    for job in jobs:
        check_job(job)
        size += len(job.payload) + len(job.cold)
    if effects:
        check_effects(effects)
        items += _items(effects)
        size += _bytes(effects)
    _check_call(items, size)


def check_outcomes(outcomes: Sequence[AnyOutcome], fetch: Fetch | None) -> None:
    """As `check_jobs`. Effects count as items of the call."""
    items, size = len(outcomes), 0
    for outcome in outcomes:
        if type(outcome) is Ack:
            size += len(outcome.result)
        elif isinstance(outcome, Retry | Dead):
            size += len(outcome.error)
        if outcome.effects:
            check_effects(outcome.effects)
            items += _items(outcome.effects)
            size += _bytes(outcome.effects)
    _check_call(items, size)
    if fetch is not None and not 0 <= fetch.count <= ITEMS_MAX:
        raise TooLarge(f"fetch.count={fetch.count}: 0 to {ITEMS_MAX} deliveries a call", limit=ITEMS_MAX)


def check_limit(limit: int) -> None:
    if not 1 <= limit <= ITEMS_MAX:
        raise TooLarge(f"limit={limit}: 1 to {ITEMS_MAX} a call", limit=ITEMS_MAX)


def check_job(job: NewJob) -> None:
    if not -PRIORITY_MAX <= job.priority <= PRIORITY_MAX:
        raise InvalidOption("priority", job.priority, f"is outside ±{PRIORITY_MAX}")
    if len(job.id) > NAME_LENGTH_MAX or not job.id:
        raise InvalidOption("id", job.id, f"has {len(job.id)} characters; 1 to {NAME_LENGTH_MAX} are allowed")
    # The kernel lets no such name through; from elsewhere one would cut the replies of stores that write a line each.
    if "\n" in job.id or "\n" in job.queue:
        raise InvalidOption("id and queue", f"{job.id} {job.queue}", "hold a line feed")
    if job.unique is not None or job.idempotency is not None or job.gate is not None or job.needs:
        _check_ties(job)


def _check_ties(job: NewJob) -> None:
    """What ties it to other jobs: keys, gates and needs."""
    if job.gate is not None and job.gate.capacity < 1:
        raise InvalidOption("gate.capacity", job.gate.capacity, "is less than 1")
    if job.unique is not None and not {"waiting", "scheduled", "pending"}.issubset(job.unique.while_):
        raise InvalidOption("unique.while_", job.unique.while_, "must hold waiting, scheduled and pending")
    for keyed in (job.unique, job.idempotency, job.gate):
        if keyed is not None and not 1 <= len(keyed.key) <= KEY_LENGTH_MAX:
            raise InvalidOption("key", keyed.key, f"has {len(keyed.key)} characters; 1 to {KEY_LENGTH_MAX} are allowed")
    if job.needs and len({need.job_id for need in job.needs}) < len(job.needs):
        raise InvalidOption("needs", job.id, "names the same parent twice")


def check_effects(effects: Effects) -> None:
    for job in effects.jobs:
        check_job(job)
    for write in effects.writes:
        if write.kind == "take" and not (write.capacity >= write.number >= 0 and write.refill_per_minute >= 0):
            raise InvalidOption("take", write.number, f"must be within the bucket's capacity of {write.capacity}")


def check_moved(items: Sequence[Moved]) -> None:
    """As `check_jobs`, for what comes from another store."""
    for item in items:
        if type(item) is MovedJob:
            check_job(item.job)
    _check_call(len(items), sum(map(moved_bytes, items)))


def moved_bytes(item: Moved) -> int:
    """What counts of it against CALL_BYTES_MAX."""
    match item:
        case MovedJob(job=job):
            size = _job_bytes(job) + len(item.result or b"")
            return size + sum(map(len, item.errors)) if item.errors else size
        case MovedState():
            return len(item.item.value)
        case MovedRecord():
            return len(item.stored.body)
        case Schedule():
            return len(item.spec)
        case _:
            return 0


def fitting(items: Sequence[Moved]) -> int:
    """How many of them, from the first on, one call can take; at least one."""
    size = 0
    for count, item in enumerate(items):
        size += moved_bytes(item)
        if size > CALL_BYTES_MAX:
            return max(1, count)
    return len(items)


def check_keys(unique: Sequence[str], idempotency: Sequence[str]) -> None:
    """Raises TooLarge for too many keys of one kind."""
    for keys in (unique, idempotency):
        _check_call(len(keys), 0)


def check_bodies(bodies: Sequence[bytes]) -> None:
    for body in bodies:
        if len(body) > 8192:
            raise TooLarge(f"a published body has {len(body)} bytes, more than 8192", limit=8192)
    _check_call(len(bodies), 0)


def _check_call(items: int, size: int) -> None:
    if items > ITEMS_MAX:
        raise TooLarge(f"{items} items in one call, more than {ITEMS_MAX}. Send them in several", limit=ITEMS_MAX)
    if size > CALL_BYTES_MAX:
        raise TooLarge(
            f"{size} bytes in one call, more than {CALL_BYTES_MAX}. Send them in several", limit=CALL_BYTES_MAX
        )


def _items(effects: Effects) -> int:
    return len(effects.jobs) + len(effects.writes) + len(effects.records)


def _job_bytes(job: NewJob) -> int:
    return len(job.payload) + len(job.cold)


def _bytes(effects: Effects) -> int:
    writes = sum(len(write.value) for write in effects.writes)
    return sum(map(_job_bytes, effects.jobs)) + writes + sum(len(record.body) for record in effects.records)
