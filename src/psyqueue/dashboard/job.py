"""One job: what it is, why it does not run or how it ended, what went wrong, what can be done."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from psyqueue import Explanation, JobView, Reason
from psyqueue.dashboard.desk import Desk
from psyqueue.dashboard.jobs import DEEDS
from psyqueue.dashboard.visit import Page, Visit
from psyqueue.errors import JobNotFound
from psyqueue.job import TERMINAL
from psyqueue.kernel.options import read_id
from psyqueue.plugins.workflows.flow import FINISH, workflow_of

_KEYS: Final = ("unique_key", "idempotency_key", "order_key", "blocked_by")
"""Mostly made of what is in the payload."""
_CONTENT: Final = ("payload", "result", "progress", "meta")
_APART: Final = frozenset(
    {*_CONTENT, "id", "name", "queue", "status", "errors", "reason", "needs", "schedule_id", "worker"}
)
"""Fields that have a place of their own on the page."""
_MOMENTS: Final = ("created_at", "run_at", "started_at", "completed_at", "expires_at", "deadline")


async def show(desk: Desk, visit: Visit) -> Page:
    """`id` is the job's. Raises JobNotFound, InvalidOption."""
    job_id = read_id(visit.asked("id"))
    view = await desk.queue.get(job_id)
    if view is None:
        raise JobNotFound(job_id)
    ends_workflow = view.name == FINISH  # who cancels or replays that job acts on all of it, in a way that nobody wants
    return Page(
        "job.html",
        {
            "view": view,
            "is_over": view.status in TERMINAL,
            "reasons": _reasons(await desk.queue.explain(job_id), visit),
            "fields": [(name, value) for name, value in _fields(view) if not visit.hides or name not in _KEYS],
            "contents": {} if visit.hides else dict(_contents(view)),
            "errors": () if visit.hides else tuple(reversed(view.errors)),
            "error_count": len(view.errors),
            "workflow_id": workflow_of(view),
            "deeds": {} if ends_workflow else {k: deed for k, deed in DEEDS.items() if view.status in deed.statuses},
            "ends_workflow": ends_workflow,
        },
    )


def _contents(view: JobView) -> Iterator[tuple[str, Any]]:
    for name in _CONTENT:
        if (value := getattr(view, name)) not in (None, {}):
            yield name, value


def _fields(view: JobView) -> Iterator[tuple[str, Any]]:
    """What is set, times first."""
    for name in _MOMENTS:
        if (value := getattr(view, name)) is not None:
            yield name, value
    for name in view.__struct_fields__:
        value = getattr(view, name)
        is_set = value is not None and value is not False and value not in ("", (), {})
        if is_set and name not in _APART and not isinstance(value, datetime):
            yield name, value


def _reasons(found: Explanation, visit: Visit) -> tuple[Reason, ...]:
    """Without what handlers said, for who may not see it."""
    if not visit.hides:
        return found.reasons
    if found.status in TERMINAL:
        return (Reason(found.status, f"it is {found.status}; your role does not see why"),)
    told = (each for each in found.reasons if each.code not in ("last_error", "last_reason"))
    return tuple(Reason("gate", "another job of its order key goes first") if _is_gate(each) else each for each in told)


def _is_gate(reason: Reason) -> bool:
    """It names the order key."""
    return reason.code.partition(":")[0] == "gate"
