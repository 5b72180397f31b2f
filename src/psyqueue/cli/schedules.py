"""`psyqueue schedules ls|show|next|pause|resume|run|rm|backfill`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import click
from msgspec.structs import asdict

from psyqueue import PsyQueue
from psyqueue.cli import output
from psyqueue.cli.enqueue import instant
from psyqueue.cli.existing import require_store
from psyqueue.cli.surface import DONE, NO, Surface, as_application, common, on_store, work_on
from psyqueue.clock import SystemClock, span, to_datetime
from psyqueue.errors import ConfigError, ScheduleNotFound
from psyqueue.plugins import Schedules, ScheduleView, upcoming

_COLUMNS = ("id", "name", "queue", "when", "state", "next", "last")


@click.group()
def schedules() -> None:
    """Work that repeats: look at schedules, pause them, make their jobs now or for a past time."""


@schedules.command("ls")
@on_store
def schedules_ls(surface: Surface) -> int:
    """All schedules, with their next instant and the last one that a job was made for."""

    async def work(opened: Schedules) -> int:
        views = await opened.list()
        if surface.is_json:
            output.print_json({"items": [_document(view) for view in views]})
            return DONE
        rows = ((v.id, v.name, v.queue, _when(v), _state(v), v.next_at, v.last_at) for v in views)
        output.print_table(_COLUMNS, rows, empty="There are no schedules.")
        return DONE

    return _on_schedules(surface, work)


@schedules.command("show")
@click.argument("schedule_id", metavar="ID")
@on_store
def schedules_show(surface: Surface, schedule_id: str) -> int:
    """One schedule, with what its jobs are made of."""

    async def work(opened: Schedules) -> int:
        view = await opened.get(schedule_id)
        if view is None:
            raise ScheduleNotFound(schedule_id)
        return _tell(surface, view)

    return _on_schedules(surface, work)


@schedules.command("next")
@click.argument("expression", metavar="[EXPR]", required=False)
@click.option("--every", metavar="DURATION", help="Instead of an expression, e.g. 30s, 5m, 24h.")
@click.option("--tz", default="UTC", show_default=True, help="Time zone of the expression, e.g. Europe/Rome.")
@click.option("--after", type=instant, metavar="ISO", help="Begin there; now by default.")
@click.option("--count", type=click.IntRange(1, 1_000), default=5, show_default=True, help="How many.")
@common
def schedules_next(
    surface: Surface, expression: str | None, every: str | None, tz: str, after: datetime | None, count: int
) -> int:
    """When "30 7 * * mon-fri" would be next, without any store."""
    start = after or to_datetime(SystemClock().now_ms())
    found = upcoming(cron=expression, every=every, tz=tz, after=start, count=count)
    if surface.is_json:
        output.print_json({"next": found})
    else:
        for at in found:
            click.echo(output.text_of(at))
    return DONE


@schedules.command("pause")
@click.argument("schedule_id", metavar="ID")
@on_store
def schedules_pause(surface: Surface, schedule_id: str) -> int:
    """Make no more jobs of it until it is resumed; those that were made stay."""

    async def work(opened: Schedules) -> int:
        return _tell(surface, await opened.pause(schedule_id))

    return _on_schedules(surface, work)


@schedules.command("resume")
@click.argument("schedule_id", metavar="ID")
@on_store
def schedules_resume(surface: Surface, schedule_id: str) -> int:
    """Undo a pause; the instants in it are left out."""

    async def work(opened: Schedules) -> int:
        return _tell(surface, await opened.resume(schedule_id))

    return _on_schedules(surface, work)


@schedules.command("run")
@click.argument("schedule_id", metavar="ID")
@as_application
def schedules_run(surface: Surface, schedule_id: str) -> int:
    """Make a job of it now, beside its instants, also while it is paused."""

    async def work(opened: Schedules) -> int:
        job_id = await opened.run(schedule_id)
        if surface.is_json:
            output.print_json({"id": job_id})
        else:
            click.echo(job_id)
        return DONE

    return _as_application(surface, work)


@schedules.command("rm")
@click.argument("schedule_id", metavar="ID")
@on_store
def schedules_rm(surface: Surface, schedule_id: str) -> int:
    """Delete a schedule; its jobs stay. One that code declares comes back when that code starts."""

    async def work(opened: Schedules) -> int:
        is_removed = await opened.remove(schedule_id)
        if surface.is_json:
            output.print_json({"id": schedule_id, "removed": is_removed})
        elif is_removed:
            click.echo(output.clean(f"schedule {schedule_id} is deleted"))
        else:
            output.say(f"psyqueue: {ScheduleNotFound(schedule_id).message}")
        return DONE if is_removed else NO

    return _on_schedules(surface, work)


@schedules.command("backfill")
@click.argument("schedule_id", metavar="ID")
@click.option("--after", type=instant, metavar="ISO", required=True, help="From this instant on.")
@click.option("--before", type=instant, metavar="ISO", required=True, help="Up to this one, and not itself.")
@as_application
def schedules_backfill(surface: Surface, schedule_id: str, after: datetime, before: datetime) -> int:
    """Make the jobs of past instants that have none yet, 1,000 at most."""

    async def work(opened: Schedules) -> int:
        made = await opened.backfill(schedule_id, after=after, before=before)
        if surface.is_json:
            output.print_json({"id": schedule_id, "made": made})
        else:
            click.echo(f"{made} job{'' if made == 1 else 's'} made")
        return DONE

    return _as_application(surface, work)


def _on_schedules(surface: Surface, work: Callable[[Schedules], Awaitable[int]]) -> int:
    """On a queue of our own: a command that looks does not create a store."""
    return _work(surface.queue(), Schedules(makes_jobs=False), work)


def _as_application(surface: Surface, work: Callable[[Schedules], Awaitable[int]]) -> int:
    """New jobs go through the middleware of --app."""
    queue = surface.producer()
    try:
        found: Any = queue.get_exposed("schedules")
    except ConfigError:
        return _work(queue, Schedules(makes_jobs=False), work)
    require_store(queue.get_exposed("backend"))
    return work_on(queue, lambda _: work(found))


def _work(queue: PsyQueue, opened: Schedules, work: Callable[[Schedules], Awaitable[int]]) -> int:
    require_store(queue.get_exposed("backend"))
    queue.use(opened)
    return work_on(queue, lambda _: work(opened))


def _document(view: ScheduleView) -> dict[str, Any]:
    """With the step in milliseconds, as all durations are told to programs."""
    fields = asdict(view)
    every = fields.pop("every")
    return {**fields, "every_ms": None if every is None else round(every.total_seconds() * 1000)}


def _when(view: ScheduleView) -> str:
    if view.every is not None:
        return f"every {span(view.every.total_seconds() * 1000)}"
    return f"{view.cron} {view.tz}"


def _state(view: ScheduleView) -> str:
    if view.is_paused:
        return "paused"
    return "active" if view.next_at is not None else "over"


def _tell(surface: Surface, view: ScheduleView) -> int:
    if surface.is_json:
        output.print_json(_document(view))
    else:
        fields = asdict(view)
        del fields["cron"], fields["tz"], fields["every"], fields["is_paused"]
        output.print_fields({"id": fields.pop("id"), "when": _when(view), "state": _state(view), **fields}.items())
    return DONE
