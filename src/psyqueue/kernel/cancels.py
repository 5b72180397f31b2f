"""Cancelling: one job, or all that filters mean. What waits is cancelled; what runs is asked to end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from psyqueue.backend import Amended, Change, Filter
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.errors import InvalidOption, JobNotFound
from psyqueue.job import LIVE, name_problem
from psyqueue.kernel.queries import CHOICE, JobChoice, get_view, read_filters
from psyqueue.kernel.views import view_of

if TYPE_CHECKING:
    from psyqueue.kernel.core import Core

_CANCEL = Change(kind="cancel", reason="cancelled by request")


async def cancel_job(core: Core, job_id: str) -> bool:
    """As JobHandle.cancel."""
    core.require_running()
    if name_problem(job_id):
        raise JobNotFound(job_id)
    amended = await _amend(core, Filter(ids=(job_id,)), None)
    if job_id in amended.changed:
        return True
    if not any(skipped == job_id and status is not None for skipped, status in amended.skipped):
        if await get_view(core, job_id) is None:
            raise JobNotFound(job_id)
    return False


async def cancel_these(core: Core, job_ids: Sequence[str]) -> None:
    """Those of them that have not ended, up to 500."""
    core.require_running()
    await _amend(core, Filter(ids=tuple(job_ids)), None)


async def cancel_all(core: Core, choice: JobChoice) -> int:
    """As PsyQueue.cancel_all."""
    core.require_running()
    where = read_filters(choice, CHOICE, "cancel_all()")
    _require_choice(choice, where)
    statuses = tuple(status for status in where.statuses or sorted(LIVE) if status in LIVE)
    if not statuses:
        return 0
    # Exclusive: what is enqueued from here on is left alone, so that the walk has an end.
    until_ms = (await core.backend.info()).now_ms + 1
    if where.created_to_ms is not None:
        until_ms = min(until_ms, where.created_to_ms)
    where = replace(where, statuses=statuses, created_to_ms=until_ms)
    if (tenant := choice.get("tenant")) is None:
        return await _cancel_where(core, where)
    count = 0
    async for ids in _of_tenant(core, where, tenant):
        count += len((await _amend(core, replace(where, ids=ids), None)).changed)
    return count


def _require_choice(choice: JobChoice, where: Filter) -> None:
    """A filter that is missing, or says nothing, would mean every job; here that is never what was meant."""
    if not choice:
        raise InvalidOption("filters", None, "are missing: that would mean every job", f"Give {', '.join(CHOICE)}")
    said = {
        "queue": where.queues,
        "status": where.statuses,
        "name": where.names,
        "created_after": where.created_from_ms,
        "created_before": where.created_to_ms,
    }
    for option, value in choice.items():
        if said.get(option, value) in (None, (), ""):
            raise InvalidOption(option, value, "is empty: that would mean every job", "Leave it out, or say which")


async def tell_cancelled(core: Core, job_ids: Sequence[str]) -> None:
    """Workers that run them hear of it at once; if the word is lost, with their next call or renewal.

    Whoever listens in this process hears which have ended; of the others their workers tell.
    """
    found = [stored for stored in await core.backend.get(job_ids) if stored is not None]
    for session_id in sorted({stored.session_id for stored in found if stored.session_id}):
        await core.backend.publish(session_topic(session_id), (b"null",))
    if core.bus.wants("job:cancelled"):
        for stored in found:
            if stored.status == "cancelled":
                about = {"job_id": stored.job.id, "queue": stored.job.queue, "name": stored.job.name}
                core.bus.publish("job:cancelled", {**about, "reason": stored.reason})


def session_topic(session_id: str) -> str:
    """What concerns the jobs that a worker holds is said here; every word only means: look."""
    return f"session:{session_id}"


async def _cancel_where(core: Core, where: Filter) -> int:
    count, cursor = 0, None
    while True:
        amended = await _amend(core, where, cursor)
        count += len(amended.changed)
        cursor = amended.cursor
        if cursor is None:
            return count


async def _of_tenant(core: Core, where: Filter, tenant: str) -> AsyncIterator[tuple[str, ...]]:
    """The store finds the tenant's name anywhere in a job; that it is the job's tenant is seen here."""
    cursor = None
    while True:
        page = await core.backend.list_jobs(where, cursor, ITEMS_MAX)
        ids = tuple(stored.job.id for stored in page.jobs if view_of(stored).tenant_id == tenant)
        if ids:
            yield ids
        cursor = page.cursor
        if cursor is None:
            return


async def _amend(core: Core, where: Filter, cursor: str | None) -> Amended:
    amended = await core.operate(lambda op: core.backend.amend(op, where, _CANCEL, cursor, ITEMS_MAX))
    if amended.changed:
        await tell_cancelled(core, amended.changed)
    return amended
