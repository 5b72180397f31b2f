"""One job in full, and why it is not running."""

from __future__ import annotations

from psyqueue.backend import JobView, Limits, NewJob
from psyqueue.backend.state_rules import TOKEN_UNITS
from psyqueue.backends._sqlite.limits import Limited, limited
from psyqueue.backends._sqlite.rows import Row
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import ACTIVE, COMPLETED, PENDING, SCHEDULED, WAITING, Step


def job_of(row: Row, cold: bytes, payload: bytes) -> NewJob:
    """As it was enqueued, but for what was changed since; when it is to run is its present `run_at_ms`."""
    extras = row.extras
    return NewJob(
        id=row.id,
        queue=row.queue,
        name=row.name,
        payload=payload,
        cold=cold,
        digest=row.digest,
        priority=row.priority,
        max_retries=row.max_retries,
        max_lost=row.max_lost,
        lane=row.lane,
        run_at_ms=row.run_at_ms,
        schedule_id=extras.schedule_id,
        unique=extras.unique,
        idempotency=extras.idempotency,
        gate=extras.gate,
        needs=extras.needs,
    )


class Viewer:
    """Views of one step: limits and counts are looked up once for each queue and lane."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._codes: dict[tuple[str, str | None], list[str]] = {}

    def view(self, row: Row) -> JobView:
        step = self._step
        cold, payload = step.run(SQL["rows.content"], (row.n,)).fetchone()
        session = step.run(SQL["session.worker"], (row.session,)).fetchone() if row.status == ACTIVE else None
        return JobView(
            job=job_of(row, cold, payload),
            status=row.status_name,
            attempt=row.attempt,
            lost=row.lost,
            generation=row.generation,
            fence=row.fence,
            ready_number=row.ready_number,
            session_id=session[0] if session is not None else None,
            worker=session[1] if session is not None else None,
            held=bool(row.held),
            cancel_requested=bool(row.cancel_requested),
            reason=row.reason,
            created_at_ms=row.created_at_ms,
            started_at_ms=row.started_at_ms,
            completed_at_ms=row.completed_at_ms,
            run_at_ms=row.run_at_ms,
            expires_at_ms=row.expires_at_ms,
            result=self._result(row),
            errors=tuple(error for (error,) in step.run(SQL["rows.errors"], (row.n,))),
            blocked_by=self._blocks(row),
        )

    def _result(self, row: Row) -> bytes | None:
        if row.status != COMPLETED:
            return None
        found = self._step.run(SQL["rows.result"], (row.n,)).fetchone()
        return b"null" if found is None else bytes(found[0])

    def _blocks(self, row: Row) -> tuple[str, ...]:
        if row.status > PENDING:
            return ()
        codes = ["held"] if row.held else []
        if row.extras.needs:
            codes += [f"needs:{parent_id}" for parent_id in self._unmet(row)]
        if row.status == WAITING and row.needs_left == 0 and row.gate is not None:
            codes.append(f"gate:{row.gate}")
        if row.status == SCHEDULED:
            codes.append("run_at")
        codes += self._limit_codes(row.queue, None)
        codes += self._limit_codes(row.queue, row.lane)
        if self._step.starts_nothing:
            codes.append(f"mode:{self._step.mode}")
        return tuple(codes)

    def _unmet(self, row: Row) -> list[str]:
        unmet = {parent_id for parent_id, _, _ in self._step.run(SQL["links.unmet_of"], (row.n,))}
        return [need.job_id for need in row.extras.needs if need.job_id in unmet]

    def _limit_codes(self, queue: str, lane: str | None) -> list[str]:
        key = (queue, lane)
        if key not in self._codes:
            found = limited(self._step, queue, lane)
            self._codes[key] = [] if found is None else self._codes_of(found, found.limits)
        return self._codes[key]

    def _codes_of(self, found: Limited, limits: Limits) -> list[str]:
        where = "queue" if limits.lane is None else "lane"
        codes = [f"paused:{where}"] if found.is_paused(self._step.now_ms) else []
        if limits.active_max is not None and found.active(self._step) >= limits.active_max:
            codes.append(f"limit:{where}")
        if limits.starts_per_minute is not None and found.level < TOKEN_UNITS:
            codes.append(f"rate:{where}")
        return codes
