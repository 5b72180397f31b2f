"""Why is this job not running? How did it end? In codes for machines and sentences for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from psyqueue.backend import UNTIL_RESUMED, SessionInfo
from psyqueue.clock import span, to_at_ms, to_datetime
from psyqueue.errors import JobNotFound
from psyqueue.kernel.presence import presence_of
from psyqueue.kernel.queries import get_view
from psyqueue.kernel.surroundings import Surroundings, gate_name, look_around
from psyqueue.kernel.views import Explanation, JobView, Reason
from psyqueue.words import counted

if TYPE_CHECKING:
    from psyqueue.kernel.core import Core


async def explain(core: Core, job_id: str) -> Explanation:
    """Every reason that holds now, the store's own first. Raises JobNotFound."""
    view = await get_view(core, job_id)
    if view is None:
        raise JobNotFound(job_id)
    if view.status in ("completed", "dead", "cancelled"):
        return Explanation(view.id, view.status, (_ended(view),))
    around = await look_around(core.backend, view)
    if view.status == "active":
        return Explanation(view.id, view.status, tuple(_runs(view, around)))
    reasons = [_blocked(view, code, around) for code in view.blocked_by]
    reasons += _too_late(view, around)
    reasons += _of_workers(view, around)
    if view.errors:
        reasons.append(_last_error(view))
    if view.reason:
        reasons.append(Reason("last_reason", f"it was put off: {view.reason}"))
    return Explanation(view.id, view.status, tuple(reasons) or (_next(view, around),))


def _ended(view: JobView) -> Reason:
    if view.status == "completed":
        return Reason("completed", f"it completed in attempt {view.attempt}")
    if view.status == "cancelled":
        return Reason("cancelled", _ENDS.get(view.reason, view.reason) or "it was cancelled")
    text = _ENDS.get(view.reason) or _given_up(view.reason)
    last = f"; the last error: {_error(view)}" if view.errors else ""
    return Reason(f"dead:{view.reason}", text + last)


def _given_up(reason: str) -> str:
    """By a text of somebody's own: middleware's, or the handler's."""
    kind, colon, why = reason.partition(": ")
    return (
        f"middleware turned its run away: {why}"
        if colon and kind == "rejected"
        else f"its handler gave it up: {reason}"
    )


# ── it runs ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _runs(view: JobView, around: Surroundings) -> list[Reason]:
    since = "" if view.started_at is None else f", for {span(around.now_ms - to_at_ms('started_at', view.started_at))}"
    reasons = [Reason("active", f"attempt {view.attempt} runs on worker {view.worker or view.session_id}{since}")]
    holder = next((info for info in around.sessions if info.session.id == view.session_id), None)
    if holder is not None:
        reasons.append(_lease(holder, around.now_ms))
    if view.cancel_requested:
        reasons.append(Reason("cancel_requested", "its worker was asked to cancel it and has not answered yet"))
    return reasons


def _lease(holder: SessionInfo, now_ms: int) -> Reason:
    left_ms = holder.expires_in_ms
    if left_ms < 0:
        text = f"the lease of its worker ended {span(left_ms)} ago: any running worker gives the job to others"
        return Reason("lease_ended", text)
    until = to_datetime(now_ms + left_ms).isoformat(timespec="seconds")
    return Reason("leased", f"its worker's lease lasts until {until} (another {span(left_ms)}), and is renewed")


# ── what the store holds back ─────────────────────────────────────────────────────────────────────────────────────────
def _blocked(view: JobView, code: str, around: Surroundings) -> Reason:
    kind, _, rest = code.partition(":")
    match kind:
        case "held":
            text = "it is being moved to another store"
        case "needs":
            text = f"it waits for job {rest}{_which_is(around.needed, rest)}"
        case "gate":
            code = f"gate:{gate_name(code)}"
            first = "" if around.at_gate is None else f": job {around.at_gate[0]}, which is {around.at_gate[1]}"
            text = f"another job of order key {gate_name(code)!r} goes first{first}"
        case "run_at":
            due_in = to_at_ms("run_at", view.run_at) - around.now_ms
            when = f"in {span(due_in)}" if due_in > 0 else "now: it starts with the next look at its queue"
            text = f"it is due at {view.run_at.isoformat(timespec='milliseconds')}, {when}"
        case "paused":
            text = _paused(view, rest, around)
        case "limit" | "rate":
            text = _limited(view, kind, rest, around)
        case "mode":
            why = ", since a move fills it: what is here starts when the move opens it" if rest == "filling" else ""
            text = f"the namespace is {rest}: nothing is dequeued{why}"
        case _:
            text = "the store holds it back for a reason that this version of psyqueue does not know"
    return Reason(code, text)


def _which_is(needed: Mapping[str, str | None], job_id: str) -> str:
    if job_id not in needed:
        return ""
    return f", which is {needed[job_id]}" if needed[job_id] is not None else ", which is gone"


def _paused(view: JobView, where: str, around: Surroundings) -> str:
    limits, place = around.limits(where), _place(view, where)
    until_ms = None if limits is None else limits.paused_until_ms
    if until_ms is None or until_ms == UNTIL_RESUMED:
        return f"{place} is paused until somebody resumes it"
    left = span(until_ms - around.now_ms)
    return f"{place} is paused until {to_datetime(until_ms).isoformat(timespec='seconds')}, another {left}"


def _place(view: JobView, where: str) -> str:
    return f"queue {view.queue!r}" if where == "queue" else f"lane {view.lane!r}"


def _limited(view: JobView, kind: str, where: str, around: Surroundings) -> str:
    limits, place = around.limits(where), _place(view, where)
    if kind == "limit":
        number = "" if limits is None or limits.active_max is None else f" ({limits.active_max})"
        return f"as many jobs of its {where} run as active_max of {place} allows{number}"
    number = "" if limits is None or limits.starts_per_minute is None else f" ({limits.starts_per_minute} a minute)"
    return f"the start rate of its {where} is used up for the moment: starts_per_minute of {place}{number}"


def _too_late(view: JobView, around: Surroundings) -> list[Reason]:
    reasons = []
    if view.expires_at is not None and to_at_ms("expires_at", view.expires_at) <= around.now_ms:
        text = f"it expired at {view.expires_at.isoformat(timespec='seconds')}: the next look at its queue ends it"
        reasons.append(Reason("expired", text))
    if view.deadline is not None and to_at_ms("deadline", view.deadline) <= around.now_ms:
        text = f"its deadline was {view.deadline.isoformat(timespec='seconds')}: it dies instead of starting"
        reasons.append(Reason("deadline", text))
    return reasons


# ── who would run it ──────────────────────────────────────────────────────────────────────────────────────────────────
def _of_workers(view: JobView, around: Surroundings) -> list[Reason]:
    """Whether anybody takes jobs of its queue, knows its handler, and has a hand free."""
    serving = [info for info in around.sessions if view.queue in info.session.queues]
    if not serving:
        others = f" ({counted(len(around.sessions), 'takes', 'take')} other queues)" if around.sessions else ""
        text = f"no running worker takes jobs of queue {view.queue!r}{others}: start one"
        return [Reason("no_worker", f"{text}, q.start_worker({view.queue!r})")]
    alive = [info for info in serving if info.expires_in_ms >= 0]
    if not alive:
        names = ", ".join(info.session.worker for info in serving)
        return [
            Reason("workers_late", f"every worker of queue {view.queue!r} is dead or hangs, its lease is over: {names}")
        ]
    return [*_knows(view, alive), *_has_room(view, alive)]


def _knows(view: JobView, alive: Sequence[SessionInfo]) -> list[Reason]:
    """From what each worker said when it began; one that did not say may know everything."""
    versions: list[int] = []
    for info in alive:
        handlers = presence_of(info.session).handlers
        if handlers is None:
            return []
        if view.name in handlers:
            versions.append(handlers[view.name])
    number = "the one worker" if len(alive) == 1 else f"none of the {len(alive)} workers"
    if not versions:
        verb = "did not know" if len(alive) == 1 else "knew"
        text = f"{number} of queue {view.queue!r} {verb} handler {view.name!r} when it started"
        return [Reason("unknown_handler", f"{text}: deploy it, or mend the name. After a day the job is dead")]
    if max(versions) < view.schema_version:
        text = f"it was enqueued for version {view.schema_version} of handler {view.name!r}"
        return [Reason("newer_version", f"{text}, and its workers have version {max(versions)}: deploy the newer one")]
    return []


def _has_room(view: JobView, alive: Sequence[SessionInfo]) -> list[Reason]:
    slots, held = sum(presence_of(info.session).slots for info in alive), sum(info.held for info in alive)
    if view.status != "pending" or not slots or held < slots:
        return []
    who = f"the one worker of queue {view.queue!r} holds" if len(alive) == 1 else f"{len(alive)} workers hold"
    return [Reason("busy", f"every slot is taken: {who} {counted(held, 'job')}, for {counted(slots, 'slot')}")]


def _last_error(view: JobView) -> Reason:
    return Reason("last_error", f"attempt {view.errors[-1].get('attempt', view.attempt)} failed: {_error(view)}")


def _error(view: JobView) -> str:
    error = view.errors[-1]
    return f"{error.get('type', '')}: {error.get('message', '')}"


def _next(view: JobView, around: Surroundings) -> Reason:
    if view.status != "pending":
        return Reason(view.status, f"it is {view.status}, and the store gives no reason")
    others = around.count("pending") - 1
    line = f"; others of queue {view.queue!r} that are pending: {others:,}" if others > 0 else ""
    return Reason("next", f"nothing holds it back: it runs as soon as a worker has a free slot{line}")


_ENDS = {
    "exhausted": "its retries are used up",
    "lost": "its worker was lost too often while running it",
    "expired": "it had not started when it expired",
    "deadline": "its deadline had passed before a run could start",
    "fatal": "it failed with an error that its handler calls fatal",
    "payload": "its payload does not fit its handler",
    "result": "its handler returned something that is not JSON, or that is too large",
    "too_large": "its outcome was too large for one call to the store",
    "dead_letter": "its handler gave it up",
    "unknown_handler": "no worker knew its handler for a day",
    "dependency": "a job that it depends on ended otherwise than it needs",
}
