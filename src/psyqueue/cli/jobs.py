"""`psyqueue jobs ls|show|retry|cancel|rm|explain`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import click
import msgspec

from psyqueue import JobView, PsyQueue
from psyqueue.backend import Change, Filter
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.cli import output
from psyqueue.cli.enqueue import instant
from psyqueue.cli.surface import DONE, NO, Surface, common, confirm, with_queue
from psyqueue.errors import InvalidState, JobNotFound, PsyQueueError, Refused
from psyqueue.job import STATUSES

IDS_MAX = ITEMS_MAX
_SUMMARY = ("id", "queue", "name", "status", "attempt", "priority", "created_at", "run_at")


@click.group()
def jobs() -> None:
    """Look at jobs, and change single ones."""


@jobs.command("ls")
@click.option("--queue", multiple=True, help="Of this queue; may be repeated.")
@click.option("--status", multiple=True, type=click.Choice(STATUSES), help="In this status; may be repeated.")
@click.option("--name", multiple=True, help="Of this name; may be repeated.")
@click.option("--tenant", help="Of this tenant.")
@click.option("--text", help="With this text in the id, name or payload.")
@click.option("--created-after", type=instant, metavar="ISO", help="Enqueued at or after.")
@click.option("--created-before", type=instant, metavar="ISO", help="Enqueued before.")
@click.option("--limit", type=click.IntRange(1, ITEMS_MAX), default=50, show_default=True, help="Jobs at most.")
@click.option("--cursor", help="Go on where an earlier call ended.")
@common
def jobs_ls(surface: Surface, **options: Any) -> int:
    """List jobs, by queue and status."""
    filters = {option: value for option, value in options.items() if value not in (None, ())}

    async def work(queue: PsyQueue) -> int:
        items, cursor = await _collect(queue, filters)
        if surface.is_json:
            output.print_json({"items": [summary(view) for view in items], "cursor": cursor})
            return DONE
        output.print_table(_SUMMARY, (summary(view).values() for view in items), empty="No job fits.")  # type: ignore[misc]
        if cursor is not None:
            output.say(f"There are more: --cursor '{cursor}'")
        return DONE

    return with_queue(surface, work)


@jobs.command("show")
@click.argument("job_id", metavar="ID")
@common
def jobs_show(surface: Surface, job_id: str) -> int:
    """Everything about one job."""

    async def work(queue: PsyQueue) -> int:
        view = await queue.get(job_id)
        if view is None:
            raise JobNotFound(job_id)
        if surface.is_json:
            output.print_json(view)
            return DONE
        fields = msgspec.structs.asdict(view)
        errors = fields.pop("errors")
        output.print_fields(fields.items())
        for error in errors:
            attempt, kind, text = (error.get(key, "") for key in ("attempt", "type", "message"))
            click.echo(output.clean(f"error in attempt {attempt}: {kind}: {text}"))
        return DONE

    return with_queue(surface, work)


@jobs.command("explain")
@click.argument("job_id", metavar="ID")
@common
def jobs_explain(surface: Surface, job_id: str) -> int:
    """Why a job is not running, or how it ended."""

    async def work(queue: PsyQueue) -> int:
        found = await queue.explain(job_id)
        if surface.is_json:
            output.print_json(found)
            return DONE
        click.echo(f"{found.id} is {found.status}:")
        for reason in found.reasons:
            click.echo(output.clean(f"  {reason.text}"))
        return DONE

    return with_queue(surface, work)


@jobs.command("retry")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@common
def jobs_retry(surface: Surface, job_ids: tuple[str, ...]) -> int:
    """Run dead jobs again from the start."""

    async def work(queue: PsyQueue) -> int:
        return await _each(surface, "retried", job_ids, queue.dead_letter.replay)

    return with_queue(surface, work)


@jobs.command("cancel")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@common
def jobs_cancel(surface: Surface, job_ids: tuple[str, ...]) -> int:
    """Cancel jobs; one that runs is asked to end."""

    async def work(queue: PsyQueue) -> int:
        async def cancel(job_id: str) -> None:
            if not await queue.cancel(job_id):
                raise InvalidState(f"job {job_id!r} has ended already")

        return await _each(surface, "cancelled", job_ids, cancel)

    return with_queue(surface, work)


@jobs.command("rm")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
def jobs_rm(surface: Surface, job_ids: tuple[str, ...], yes: bool) -> int:
    """Delete jobs that have ended, with their results and errors."""
    if len(job_ids) > IDS_MAX:
        raise click.UsageError(f"{len(job_ids)} ids; at most {IDS_MAX} at once")
    confirm(f"Delete {len(job_ids)} job(s) for good?", is_confirmed=yes)

    async def work(queue: PsyQueue) -> int:
        core = queue._core  # noqa: SLF001 - single jobs are deleted here and nowhere in the public API
        where, change = Filter(ids=job_ids), Change(kind="delete")
        amended = await core.operate(lambda op: core.backend.amend(op, where, change, None, IDS_MAX))
        statuses = dict(amended.skipped)

        async def told(job_id: str) -> None:
            if job_id in amended.changed:
                return
            if statuses.get(job_id) is None:
                raise JobNotFound(job_id)
            why = f"is {statuses[job_id]}; cancel it first, or a live job waits for it"
            raise InvalidState(f"job {job_id!r} {why}")

        return await _each(surface, "deleted", job_ids, told)

    return with_queue(surface, work)


def summary(view: JobView) -> dict[str, Any]:
    """The fields of a listing."""
    return {name: getattr(view, name) for name in _SUMMARY}


async def _collect(queue: PsyQueue, filters: dict[str, Any]) -> tuple[list[JobView], str | None]:
    """Up to `limit` jobs: a page may be short, or empty, before the end."""
    items: list[JobView] = []
    limit, cursor = filters["limit"], filters.get("cursor")
    while True:
        wanted: Any = {**filters, "limit": limit - len(items), "cursor": cursor}
        page = await queue.jobs(**wanted)
        items += page.items
        cursor = page.cursor
        if cursor is None or len(items) >= limit:
            return items, cursor


async def _each(surface: Surface, done: str, job_ids: Sequence[str], act: Callable[[str], Awaitable[object]]) -> int:
    """Do it to one after the other; what the store refuses is told, and does not keep the others from it."""
    changed: list[str] = []
    refused: list[tuple[str, PsyQueueError]] = []
    for job_id in dict.fromkeys(job_ids):
        try:
            await act(job_id)
        except Refused as exc:
            refused.append((job_id, exc))
        else:
            changed.append(job_id)
    if surface.is_json:
        failed = [{"id": job_id, "code": error.code, "message": error.message} for job_id, error in refused]
        output.print_json({done: changed, "refused": failed})
    else:
        for job_id in changed:
            click.echo(f"{done} {output.clean(job_id)}")
    for _, error in refused:
        output.say(f"psyqueue: {error.message}")
    return NO if refused else DONE
