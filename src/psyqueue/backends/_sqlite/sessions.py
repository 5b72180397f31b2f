"""Sessions of workers: opened, renewed, closed; and what becomes of the jobs of one that is gone."""

from __future__ import annotations

from typing import Any

import msgspec

from psyqueue.backend import Done, Renewal, Session, SessionInfo
from psyqueue.backend.losses import lost_error
from psyqueue.backend.reading import is_paused
from psyqueue.backend.state_rules import REAPER_SILENCE_MS
from psyqueue.backends._sqlite import lifecycle
from psyqueue.backends._sqlite.limits import limited
from psyqueue.backends._sqlite.rows import Row, change, load, put_error
from psyqueue.backends._sqlite.settle import cancel_requested, release
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import CANCELLED, DEAD, PENDING, SCHEDULED, Step
from psyqueue.errors import InvalidState
from psyqueue.job import lost_delay_ms

_queues = msgspec.json.Decoder(tuple[str, ...])


def open_session(step: Step, session: Session) -> Renewal:
    if step.run(SQL["session.find"], (session.id,)).fetchone() is not None:
        raise InvalidState(f"session {session.id!r} was used before. Give each worker start a new id")
    step.run(
        SQL["session.open"],
        (
            session.id,
            session.worker,
            msgspec.json.encode(session.queues).decode(),
            session.lease_ms,
            session.meta,
            step.now_ms,
            step.mono_ms + session.lease_ms,
        ),
    )
    return renewal(step, session.id)


def renew(step: Step, session_id: str) -> Renewal:
    """Late is renewed, closed is not."""
    row = step.run(SQL["session.find"], (session_id,)).fetchone()
    if row is not None and row[8] is None:
        step.run(SQL["session.extend"], (step.mono_ms, row[0]))
    return renewal(step, session_id)


def renewal(step: Step, session_id: str) -> Renewal:
    row = step.run(SQL["session.find"], (session_id,)).fetchone()
    if row is None or row[8] is not None:
        return Renewal(False, (), (), step.now_ms)
    paused = tuple(queue for queue in _queues.decode(row[3]) if _is_queue_paused(step, queue))
    return Renewal(True, cancel_requested(step, row[0]), paused, step.now_ms)


def _is_queue_paused(step: Step, queue: str) -> bool:
    found = limited(step, queue, None)
    return found is not None and is_paused(found.limits, step.now_ms)


def close_session(step: Step, session_id: str, limit: int) -> Done:
    """Close, then release what it holds, in order of creation."""
    row = step.run(SQL["session.find"], (session_id,)).fetchone()
    if row is None:
        return Done()
    if row[8] is None:
        step.run(SQL["session.close"], (step.mono_ms, row[0]))
    numbers = [n for (n,) in step.run(SQL["session.held"], (row[0], limit + 1)).fetchall()]
    released = [release(step, load(step, n)).id for n in numbers[:limit]]
    lifecycle.follow_through(step)
    return Done(tuple(released), more=len(numbers) > limit)


def reap(step: Step, limit: int) -> Done:
    silence_ms = step.mono_ms - step.reaped_mono_ms
    step.run(SQL["meta.reaped"], (step.mono_ms,))
    if silence_ms > REAPER_SILENCE_MS:
        step.run(SQL["session.extend_all"], (step.mono_ms,))
        return Done()
    expired = step.run(SQL["session.expired"], (step.mono_ms, limit + 1)).fetchall()
    for (session,) in expired[:limit]:
        step.run(SQL["session.close"], (step.mono_ms, session))
    left = step.run(SQL["session.left_behind"], (limit + 1,)).fetchall()
    ids = [_take_back(step, load(step, n), session_id, worker) for n, session_id, worker in left[:limit]]
    lifecycle.follow_through(step)
    return Done(tuple(ids), more=len(left) > limit or len(expired) > limit)


def _take_back(step: Step, row: Row, session_id: str, worker: str) -> str:
    """A lost delivery: its token is void at once, so that a late outcome is `lost`."""
    put_error(step, row, lost_error(worker, session_id, row.attempt, step.now_ms))
    row.token = None
    row.session = None
    row.lost += 1
    if row.cancel_requested:
        lifecycle.end(step, row, CANCELLED, reason=row.reason)
    elif row.lost > row.max_lost:
        lifecycle.end(step, row, DEAD, reason="lost")
    elif row.attempt > row.max_retries:
        lifecycle.end(step, row, DEAD, reason="exhausted")
    elif row.lost == 1:
        change(step, row, status=PENDING)
    else:
        run_at_ms = step.now_ms + lost_delay_ms(row.lost)
        change(step, row, status=SCHEDULED, ready_number=None, run_at_ms=run_at_ms)
    return row.id


def list_sessions(step: Step, cursor: str | None, limit: int) -> tuple[tuple[SessionInfo, ...], str | None]:
    rows = step.run(SQL["session.list"], (cursor or "", limit + 1)).fetchall()
    infos = tuple(_info(step, row) for row in rows[:limit])
    return infos, infos[-1].session.id if len(rows) > limit else None


def _info(step: Step, row: tuple[Any, ...]) -> SessionInfo:
    n, session_id, worker, queues, lease_ms, meta, opened_at_ms, until_mono_ms = row
    session = Session(id=session_id, worker=worker, queues=_queues.decode(queues), lease_ms=lease_ms, meta=meta)
    (held,) = step.run(SQL["session.held_count"], (n,)).fetchone()
    return SessionInfo(session, held, opened_at_ms, until_mono_ms - step.mono_ms)
