"""The heart: outcomes of deliveries in order, then what time did, then the next deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TypeAlias

import msgspec

from psyqueue.backend import (
    Ack,
    AnyOutcome,
    Cancelled,
    Dead,
    Fetch,
    Keep,
    Release,
    Retry,
    Settled,
    SettleReply,
    Snooze,
)
from psyqueue.backends._sqlite import lifecycle
from psyqueue.backends._sqlite.dequeue import dequeue
from psyqueue.backends._sqlite.effects import apply_effects, may_be_refused
from psyqueue.backends._sqlite.limits import next_start_in_ms
from psyqueue.backends._sqlite.rows import Row, change, find, load, put_error
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import ACTIVE, CANCELLED, COMPLETED, DEAD, PENDING, SCHEDULED, Step
from psyqueue.errors import Refused, SessionLost

_HELD, _ACK, _PUT_RESULT = SQL["settle.held"], SQL["settle.ack"], SQL["rows.put_result"]
_Held: TypeAlias = tuple[int, str, str | None, int | None, int, int, str, str]
"""(n, id, token, session, status, links, queue, lane)"""
_decode_held = msgspec.json.Decoder(list[_Held]).decode
_NUMBER_MAX = 1 << 53
_to_json = msgspec.json.encode


def settle(step: Step, session_id: str, outcomes: Sequence[AnyOutcome], fetch: Fetch | None) -> SettleReply:
    """Raises SessionLost, NamespaceFrozen, NamespaceMoved."""
    if fetch is not None and step.starts_nothing:
        if not outcomes:
            step.require_dequeue()
        fetch = None
    session = open_session_number(step, session_id)
    settled = settle_outcomes(step, session, outcomes) if outcomes else ()
    if fetch is None:
        is_left_over = lifecycle.follow_through(step)
        return SettleReply(settled, cancel_requested=cancel_requested(step, session), more=is_left_over)
    passed = lifecycle.pass_time(step, fetch.queues)
    is_known = passed.is_known and not step.has_followers
    is_left_over = lifecycle.follow_through(step)
    deliveries, is_bounded = dequeue(step, session, fetch)
    due_in_ms = passed.next_in_ms if is_known else lifecycle.next_due_in_ms(step, fetch.queues)
    start_in_ms = next_start_in_ms(step, fetch.queues)
    return SettleReply(
        settled,
        tuple(deliveries),
        cancel_requested(step, session),
        more=is_bounded or passed.is_bounded or is_left_over,
        next_due_in_ms=min((each for each in (due_in_ms, start_in_ms) if each is not None), default=None),
        held=step.run(SQL["session.held_count"], (session,)).fetchone()[0] if fetch.counts else None,
    )


def open_session_number(step: Step, session_id: str) -> int:
    """Of the session that the step is about."""
    number, closed_mono_ms = step.session
    if number is None or closed_mono_ms is not None:
        raise SessionLost(session_id)
    return number


def cancel_requested(step: Step, session: int) -> tuple[str, ...]:
    if not step.has_cancels:
        return ()
    return tuple(job_id for (job_id,) in step.run(SQL["settle.cancel_requested"], (session,)))


def settle_outcomes(step: Step, session: int, outcomes: Sequence[AnyOutcome]) -> tuple[Settled, ...]:
    """In order. Plain acks are gathered and written together; anything else is done by itself, after them."""
    return _Settling(step, session, outcomes).run()


def number_in(completion_token: str) -> int | None:
    """The creation number that a token begins with; None if it is none of ours. The whole token is compared later."""
    try:
        return int(completion_token[: completion_token.index(".")])
    except ValueError:
        return None


class _Settling:
    def __init__(self, step: Step, session: int, outcomes: Sequence[AnyOutcome]) -> None:
        self._step = step
        self._session = session
        self._outcomes = outcomes
        self._numbers = [number_in(outcome.completion_token) for outcome in outcomes]
        self._plain: list[int] = []
        self._results: list[tuple[int, bytearray]] = []
        self._counts: dict[tuple[str, str], int] = {}

    def run(self) -> tuple[Settled, ...]:
        settled: list[Settled] = []
        held = self._look()
        for outcome, n in zip(self._outcomes, self._numbers, strict=True):
            # A look is good for one outcome: what is done to a job a second time is looked at again.
            row = held.pop(n, None) if n is not None else None
            if row is not None and type(outcome) is Ack and not outcome.effects and self._is_plain(outcome, row):
                settled.append(Settled(outcome.job_id, "ok", "completed"))
                continue
            self._write_plain()
            settled.append(_settle_one(self._step, self._session, outcome))
            if outcome.effects:
                held.clear()
        self._write_plain()
        return tuple(settled)

    def _look(self) -> dict[int, _Held]:
        numbers = [n for n in self._numbers if n is not None and 0 < n < _NUMBER_MAX]
        (held,) = self._step.run(_HELD, (_to_json(numbers).decode(),)).fetchone()
        return {row[0]: row for row in _decode_held(held)}

    def _is_plain(self, outcome: Ack, row: _Held) -> bool:
        """Held here, and nothing else is bound to it: gathered."""
        n, job_id, token, session, status, links, queue, lane = row
        if status != ACTIVE or links or session != self._session or job_id != outcome.job_id:
            return False
        if outcome.completion_token != f"{n}.{token}":
            return False
        self._plain.append(n)
        if outcome.result != b"null":
            self._results.append((n, bytearray(outcome.result)))
        key = (queue, lane)
        self._counts[key] = self._counts.get(key, 0) + 1
        self._step.ended.append(job_id)
        return True

    def _write_plain(self) -> None:
        if not self._plain:
            return
        step = self._step
        step.run(_ACK, (step.now_ms, _to_json(self._plain).decode()))
        if self._results:
            step.connection.executemany(_PUT_RESULT, self._results)
        for (queue, lane), jobs in self._counts.items():
            step.count(queue, lane, ACTIVE, -jobs)
            step.count(queue, lane, COMPLETED, jobs)
        self._plain, self._results, self._counts = [], [], {}


def _settle_one(step: Step, session: int, outcome: AnyOutcome) -> Settled:
    n = number_in(outcome.completion_token)
    row = find(step, outcome.job_id)
    if row is None or row.n != n or row.token is None or row.completion_token != outcome.completion_token:
        return Settled(outcome.job_id, "lost", row.status_name if row is not None else None)
    if row.status != ACTIVE:
        # The token of a job that is not active is the one that settled it.
        return Settled(outcome.job_id, "already", row.status_name)
    if row.session != session:
        return Settled(outcome.job_id, "lost", "active")
    if not outcome.effects:
        return Settled(outcome.job_id, "ok", _apply(step, row, outcome).status_name)
    try:
        with step.savepoint() if may_be_refused(outcome.effects) else nullcontext():
            _, enqueued = apply_effects(step, outcome.effects)
    except Refused:
        return Settled(outcome.job_id, "conflict", "active")
    # An effect may have changed this very row (a need on it, for example): read it again.
    row = _apply(step, load(step, row.n), outcome)
    return Settled(outcome.job_id, "ok", row.status_name, tuple(enqueued))


def _apply(step: Step, row: Row, outcome: AnyOutcome) -> Row:
    match outcome:
        case Keep():
            return row
        case Ack(result=result):
            return lifecycle.end(step, row, COMPLETED, result=result)
        case Cancelled(reason=reason):
            return lifecycle.end(step, row, CANCELLED, reason=reason or row.reason)
        case Dead(error=error, reason=reason):
            put_error(step, row, error)
            return lifecycle.end(step, row, DEAD, reason=reason)
        case Retry(error=error, delay_ms=delay_ms):
            put_error(step, row, error)
            if row.cancel_requested:
                return lifecycle.end(step, row, CANCELLED, reason=row.reason)
            if row.attempt > row.max_retries:
                return lifecycle.end(step, row, DEAD, reason="exhausted")
            return put_off(step, row, delay_ms)
        case Snooze(delay_ms=delay_ms, reason=reason):
            if row.cancel_requested:
                return lifecycle.end(step, row, CANCELLED, reason=row.reason)
            row.attempt -= 1
            row.reason = reason
            return put_off(step, row, delay_ms)
        case Release():
            return release(step, row)


def put_off(step: Step, row: Row, delay_ms: int) -> Row:
    """→ scheduled, its place in line given up; the token stays and counts as settled."""
    return change(step, row, status=SCHEDULED, session=None, ready_number=None, run_at_ms=step.now_ms + delay_ms)


def release(step: Step, row: Row) -> Row:
    """→ pending at its old place, the attempt given back."""
    if row.cancel_requested:
        return lifecycle.end(step, row, CANCELLED, reason=row.reason)
    return change(step, row, status=PENDING, session=None, attempt=row.attempt - 1)
