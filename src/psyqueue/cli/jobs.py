"""`psyqueue jobs ls|show|explain|retry|cancel|rm|tail`."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import click
import msgspec

from psyqueue import Explanation, JobView, PsyQueue, Reason
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.cli import output
from psyqueue.cli.bulk import bulk_options, change_many
from psyqueue.cli.enqueue import instant
from psyqueue.cli.filtered import FilteredCommand
from psyqueue.cli.surface import DONE, NO, Surface, confirm, on_store, with_queue
from psyqueue.cli.tail import jobs_tail
from psyqueue.errors import InvalidState, JobNotFound, PsyQueueError, Refused
from psyqueue.job import STATUSES, UNSTARTED
from psyqueue.operating.deeds import CANCEL, DELETE, RETRY
from psyqueue.operating.query import Term, Value, check_terms
from psyqueue.operating.selection import Selection, delete_one
from psyqueue.words import counted

IDS_MAX = ITEMS_MAX
_SUMMARY = ("id", "queue", "name", "status", "attempt", "priority", "created_at", "run_at")


@click.group()
def jobs() -> None:
    """Look at jobs, and change single ones or all that fit a filter."""


@jobs.command("ls", cls=FilteredCommand)
@click.argument("filter_words", metavar="[FILTER]", nargs=-1)
@click.option("--queue", multiple=True, help="Of this queue; may be repeated.")
@click.option("--status", multiple=True, type=click.Choice(STATUSES), help="In this status; may be repeated.")
@click.option("--name", multiple=True, help="Of this name; may be repeated.")
@click.option("--tenant", multiple=True, help="Of this tenant; may be repeated.")
@click.option("--text", help="With this text in the id, name or payload.")
@click.option("--created-after", type=instant, metavar="ISO", help="Enqueued at or after.")
@click.option("--created-before", type=instant, metavar="ISO", help="Enqueued before.")
@click.option("--limit", type=click.IntRange(1, ITEMS_MAX), default=50, show_default=True, help="Jobs at most.")
@click.option("--cursor", help="Go on where an earlier call ended.")
@on_store
def jobs_ls(surface: Surface, filter_words: tuple[str, ...], limit: int, cursor: str | None, **options: Any) -> int:
    """List jobs, by queue and status.

    FILTER is e.g. 'status:dead name:email.* error:"timed out" age:>1h'.
    """
    terms = (*check_terms(" ".join(filter_words)), *_terms_of(options))

    async def work(queue: PsyQueue) -> int:
        items, rest = await (await Selection.open(queue, terms, say=output.say)).page(limit, cursor)
        if surface.is_json:
            output.print_json({"items": [summary(view) for view in items], "cursor": rest})
            return DONE
        output.print_table(_SUMMARY, (summary(view).values() for view in items), empty="No job fits.")  # type: ignore[misc]
        if rest is not None:
            output.say(f"There are more: --cursor '{rest}'")
        return DONE

    return with_queue(surface, work)


@jobs.command("show")
@click.argument("job_id", metavar="ID")
@on_store
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
@on_store
def jobs_explain(surface: Surface, job_id: str) -> int:
    """Why a job is not running, or how it ended."""
    application = surface.application()

    async def work(queue: PsyQueue) -> int:
        found = await queue.explain(job_id)
        if application is not None and found.status in UNSTARTED:
            view = await queue.get(job_id)
            more = () if view is None else _told_by(application, str(surface.app), view, found)
            found = msgspec.structs.replace(found, reasons=(*found.reasons, *more))
        if surface.is_json:
            output.print_json(found)
            return DONE
        click.echo(f"{found.id} is {found.status}:")
        for reason in found.reasons:
            click.echo(output.clean(f"  {reason.text}"))
        return DONE

    return with_queue(surface, work)


@jobs.command("retry")
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@bulk_options(rate=True)
@on_store
def jobs_retry(surface: Surface, job_ids: tuple[str, ...], **bulk: Any) -> int:
    """Run dead jobs again from the start: those named, or all that fit a filter."""
    if not job_ids:
        return change_many(surface, RETRY, **bulk)
    _require_ids_alone(bulk)

    async def work(queue: PsyQueue) -> int:
        return await _each(surface, "retried", job_ids, queue.dead_letter.replay)

    return with_queue(surface, work)


@jobs.command("cancel")
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@bulk_options()
@on_store
def jobs_cancel(surface: Surface, job_ids: tuple[str, ...], **bulk: Any) -> int:
    """Cancel jobs, those named or all that fit a filter; one that runs is asked to end."""
    if not job_ids:
        return change_many(surface, CANCEL, **bulk)
    _require_ids_alone(bulk)

    async def work(queue: PsyQueue) -> int:
        async def cancel(job_id: str) -> None:
            if not await queue.cancel(job_id):
                raise InvalidState(f"job {job_id!r} has ended already")

        return await _each(surface, "cancelled", job_ids, cancel)

    return with_queue(surface, work)


@jobs.command("rm")
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@bulk_options()
@on_store
def jobs_rm(surface: Surface, job_ids: tuple[str, ...], **bulk: Any) -> int:
    """Delete jobs that have ended, with their results and errors: those named, or all that fit a filter."""
    if not job_ids:
        return change_many(surface, DELETE, **bulk)
    is_sure = bulk["yes"]
    _require_ids_alone({**bulk, "yes": False})
    if len(job_ids) > IDS_MAX:
        raise click.UsageError(f"{len(job_ids)} ids; at most {IDS_MAX} at once")
    confirm(f"Delete {counted(len(job_ids), 'job')} for good?", is_confirmed=is_sure)

    async def work(queue: PsyQueue) -> int:
        async def delete(job_id: str) -> None:
            await delete_one(queue, job_id)

        return await _each(surface, "deleted", job_ids, delete)

    return with_queue(surface, work)


jobs.add_command(jobs_tail)


def summary(view: JobView) -> dict[str, Any]:
    """The fields of a listing."""
    return {name: getattr(view, name) for name in _SUMMARY}


def _terms_of(options: dict[str, Any]) -> list[Term]:
    """The options of `ls` as conditions."""
    terms = [
        Term(field, tuple(Value(text, is_literal=True) for text in options[field]))
        for field in ("queue", "status", "name", "tenant")
        if options[field]
    ]
    if options["text"]:
        terms.append(Term("text", (Value(options["text"], is_literal=True),)))
    for option, operator in (("created_after", ">="), ("created_before", "<")):
        if options[option] is not None:
            terms.append(Term("created", (Value(options[option].isoformat()),), operator))
    return terms


def _told_by(application: PsyQueue, target: str, view: JobView, found: Explanation) -> Iterator[Reason]:
    """What the handlers of an application say about a job that has not started."""
    handlers = application._core.handlers  # noqa: SLF001 - an operator looks at what an application knows
    if handlers.find(view.name) is None:
        text = f"{target} has no handler {view.name!r}: its name is wrong, or another application runs it"
        yield Reason("no_handler", text)
    elif any(reason.code == "no_worker" for reason in found.reasons):
        queues = "" if view.queue in handlers.queues() else f" --queues {shlex.quote(view.queue)}"
        yield Reason("startable", f"{target} has its handler: `psyqueue worker {target}{queues}` runs it")


def _require_ids_alone(bulk: dict[str, Any]) -> None:
    if given := [f"--{option.replace('_', '-')}" for option, value in bulk.items() if value]:
        raise click.UsageError(f"{given[0]} goes with --where, not with ids")


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
