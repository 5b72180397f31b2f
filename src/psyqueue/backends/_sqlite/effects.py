"""What becomes true together with a step: writes to the shared state, follow-up jobs, records; and locks."""

from __future__ import annotations

from typing import Any

from psyqueue.backend import Effects, Enqueued, Lock, Record, StateWrite
from psyqueue.backend.state_rules import TOKEN_UNITS, refilled, wait_ms
from psyqueue.backends._sqlite import intake
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import Step
from psyqueue.errors import RateLimitError, StateConflict

_Cell = tuple[bytes, int, int | None, int | None, int | None]
"""value, version, expires_mono_ms, bucket_level, bucket_mono_ms"""


def apply_effects(step: Step, effects: Effects) -> tuple[list[int], list[Enqueued]]:
    """(numbers of the writes, replies of the follow-up jobs). Raises Refused if a precondition fails."""
    numbers = [_write(step, write) for write in effects.writes]
    enqueued = intake.enqueue(step, effects.jobs, is_follow_up=True) if effects.jobs else []
    for record in effects.records:
        _append(step, record)
    return numbers, enqueued


def may_be_refused(effects: Effects) -> bool:
    """Whether something in it has a precondition: if not, nothing ever has to be taken back."""
    return bool(effects.writes) or any(job.needs for job in effects.jobs)


def _append(step: Step, record: Record) -> None:
    (seq,) = step.run(SQL["state.next_seq"], (record.stream,)).fetchone()
    expires = None if record.ttl_ms is None else step.mono_ms + record.ttl_ms
    step.run(SQL["state.append"], (record.stream, seq, step.now_ms, expires, record.body))


def live_cell(step: Step, key: str) -> _Cell | None:
    cell: _Cell | None = step.run(SQL["state.get"], (key,)).fetchone()
    return None if cell is None or (cell[2] is not None and cell[2] <= step.mono_ms) else cell


def _write(step: Step, write: StateWrite) -> int:
    cell = live_cell(step, write.key)
    version = cell[1] if cell is not None else 0
    if write.expected is not None and write.kind in ("put", "delete") and write.expected != version:
        raise StateConflict(write.key, write.expected, version)
    if write.kind == "delete":
        step.run(SQL["state.delete"], (write.key,))
        return 0
    value, number, bucket = write.value, version + 1, None
    if write.kind == "add":
        number = _number_of(cell, write.key) + write.number
        value = str(number).encode()
    elif write.kind == "take":
        level = _take(step, write, cell)
        bucket, number = level, level // TOKEN_UNITS
        value = str(number).encode()
    expires = None if write.ttl_ms is None else step.mono_ms + write.ttl_ms
    at_mono_ms = None if bucket is None else step.mono_ms
    step.run(SQL["state.put"], (write.key, value, version + 1, expires, bucket, at_mono_ms))
    return number


def _number_of(cell: _Cell | None, key: str) -> int:
    if cell is None:
        return 0
    try:
        return int(cell[0])
    except ValueError:
        # A key of text is no counter: the version stands for what was found.
        raise StateConflict(key, None, cell[1]) from None


def _take(step: Step, write: StateWrite, cell: _Cell | None) -> int:
    """The bucket's level after it, in 1/60,000 of a token."""
    full = write.capacity * TOKEN_UNITS
    level = full
    if cell is not None and cell[3] is not None and cell[4] is not None:
        level = refilled(cell[3], step.mono_ms - cell[4], write.refill_per_minute, full)
    missing = write.number * TOKEN_UNITS - level
    if missing > 0:
        raise RateLimitError(write.key, wait_ms(missing, write.refill_per_minute))
    return level - write.number * TOKEN_UNITS


def lock(step: Step, name: str, holder: str, lease_ms: int) -> Lock:
    """Take or renew; 0 lets go."""
    step.require_change()
    found: Any = step.run(SQL["state.lock"], (name,)).fetchone()
    holding, fence, until_mono_ms = found if found is not None else ("", 0, 0)
    is_taken = until_mono_ms > step.mono_ms
    if is_taken and holding != holder:
        return Lock(None, holding, until_mono_ms - step.mono_ms)
    if lease_ms <= 0:
        if is_taken:
            step.run(SQL["state.put_lock"], (name, holder, fence, step.mono_ms))
        return Lock(None, "", 0)
    fence = fence if is_taken else fence + 1
    step.run(SQL["state.put_lock"], (name, holder, fence, step.mono_ms + lease_ms))
    return Lock(fence, holder, lease_ms)
