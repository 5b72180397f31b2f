"""Why is this job not running? How did it end? In codes for machines and sentences for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.errors import JobNotFound
from psyqueue.kernel.job_handle import get_view
from psyqueue.kernel.options import unscoped
from psyqueue.kernel.views import Explanation, JobView, Reason

if TYPE_CHECKING:
    from psyqueue.kernel.core import Core


async def explain(core: Core, job_id: str) -> Explanation:
    """Every reason that holds now, the store's own first. Raises JobNotFound."""
    view = await get_view(core, job_id)
    if view is None:
        raise JobNotFound(job_id)
    if view.status in ("completed", "dead", "cancelled"):
        return Explanation(view.id, view.status, (_ended(view),))
    reasons = [_blocked(view, code) for code in view.blocked_by]
    if view.status == "active":
        reasons.append(Reason("active", f"attempt {view.attempt} runs on worker {view.worker or view.session_id}"))
        if view.cancel_requested:
            reasons.append(Reason("cancel_requested", "its worker was asked to cancel it and has not answered yet"))
    else:
        reasons += await _nobody(core, view)
        if view.errors:
            reasons.append(_last_error(view))
        if view.reason:
            reasons.append(Reason("last_reason", f"it was put off: {view.reason}"))
    return Explanation(view.id, view.status, tuple(reasons) or (_next(view),))


def _ended(view: JobView) -> Reason:
    if view.status == "completed":
        return Reason("completed", f"it completed in attempt {view.attempt}")
    if view.status == "cancelled":
        return Reason("cancelled", _ENDS.get(view.reason, view.reason) or "it was cancelled")
    text = _ENDS.get(view.reason, f"its handler gave it up: {view.reason}")
    last = f"; the last error: {_error(view)}" if view.errors else ""
    return Reason(f"dead:{view.reason}", text + last)


def _blocked(view: JobView, code: str) -> Reason:
    kind, _, rest = code.partition(":")
    match kind:
        case "held":
            text = "it is being moved to another store"
        case "needs":
            text = f"it waits for job {rest}"
        case "gate":
            code = f"gate:{unscoped(rest)}"
            text = f"another job of order key {unscoped(rest)!r} goes first"
        case "run_at":
            text = f"it is due at {view.run_at.isoformat(timespec='milliseconds')}"
        case "paused":
            text = f"queue {view.queue!r} is paused" if rest == "queue" else f"lane {view.lane!r} is paused"
        case "limit":
            text = f"as many jobs of its {rest} run as its limit active_max allows"
        case "rate":
            text = f"the start rate of its {rest} is used up for the moment"
        case "mode":
            text = f"the namespace is {rest}: nothing is dequeued"
        case "behind":
            text = f"{rest} pending jobs are before it in queue {view.queue!r}"
        case _:
            text = "the store holds it back for a reason that this version of psyqueue does not know"
    return Reason(code, text)


async def _nobody(core: Core, view: JobView) -> list[Reason]:
    """Whether any running worker takes jobs of its queue."""
    cursor: str | None = None
    while True:
        sessions, cursor = await core.backend.sessions(cursor, ITEMS_MAX)
        if any(view.queue in session.session.queues for session in sessions):
            return []
        if cursor is None:
            text = f"no running worker takes jobs of queue {view.queue!r}: start one, q.start_worker({view.queue!r})"
            return [Reason("no_worker", text)]


def _last_error(view: JobView) -> Reason:
    return Reason("last_error", f"attempt {view.errors[-1].get('attempt', view.attempt)} failed: {_error(view)}")


def _error(view: JobView) -> str:
    error = view.errors[-1]
    return f"{error.get('type', '')}: {error.get('message', '')}"


def _next(view: JobView) -> Reason:
    if view.status == "pending":
        return Reason("next", "nothing holds it back: it runs as soon as a worker has a free slot")
    return Reason(view.status, f"it is {view.status}, and the store gives no reason")


_ENDS = {
    "exhausted": "its retries are used up",
    "lost": "its worker was lost too often while running it",
    "expired": "it had not started when it expired",
    "deadline": "its deadline had passed before a run could start",
    "fatal": "it failed with an error that its handler calls fatal",
    "payload": "its payload does not fit its handler",
    "result": "its handler returned something that is not JSON",
    "unknown_handler": "no worker knew its handler for a day",
    "dependency": "a job that it depends on ended otherwise than it needs",
}
