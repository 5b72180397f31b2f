"""`psyqueue queues limits`: show the settings of a queue, or change some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from psyqueue import PsyQueue
from psyqueue.backend import BackendAdapter, Limits
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.cli import output
from psyqueue.cli.reading import tell_if_unknown
from psyqueue.cli.surface import DONE, Surface, on_store, with_queue
from psyqueue.clock import span
from psyqueue.kernel.queries import read_cursor
from psyqueue.words import counted

NONE = "none"
_OF_LANE = ("lane", "weight", "active_max", "starts_per_minute", "starts_burst", "pending_max")
_RETENTION = ("retain_ended", "retain_dead")


def _count(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    """`7`, or `none`. Raises BadParameter."""
    if text is None or text == NONE:
        return text
    try:
        return int(text)
    except ValueError as exc:
        raise click.BadParameter(f"{text!r} is neither a number nor {NONE!r}", context, parameter) from exc


def _retention(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    """`7d:10000`, or `none`. Raises BadParameter."""
    if text is None or text == NONE:
        return text
    age, colon, count = text.rpartition(":")
    if not colon or not count.isdecimal():
        raise click.BadParameter(f"{text!r} is neither AGE:COUNT, e.g. 7d:10000, nor {NONE!r}", context, parameter)
    return age, int(count)


def _setting(name: str, read: Callable[..., Any], metavar: str, told: str) -> Callable[[Any], Any]:
    return click.option(f"--{name}", callback=read, metavar=metavar, help=told)


@click.command("limits")
@click.argument("name", metavar="QUEUE")
@click.option("--lane", help="Of this lane.")
@click.option("--cursor", help="Go on with the lanes where an earlier call ended.")
@_setting("active-max", _count, "N", "Jobs that run at once, or none.")
@_setting("starts-per-minute", _count, "N", "Starts a minute, or none.")
@_setting("starts-burst", _count, "N", "Starts that may come at once after a quiet time.")
@_setting("pending-max", _count, "N", "Jobs that may wait; an enqueue above is refused. Or none.")
@_setting("weight", _count, "N", "Of a lane: its share of the starts.")
@_setting("retain-ended", _retention, "AGE:COUNT", "Keep completed and cancelled jobs so long, so many, or none: all.")
@_setting("retain-dead", _retention, "AGE:COUNT", "The same for dead ones.")
@on_store
def queues_limits(surface: Surface, name: str, lane: str | None, cursor: str | None, **settings: Any) -> int:
    """Show the limits of QUEUE and its lanes, or change those that are named; none lifts one."""
    given = {option: value for option, value in settings.items() if value is not None}
    changes: Any = {option: None if value == NONE else value for option, value in given.items()}

    async def work(queue: PsyQueue) -> int:
        await tell_if_unknown(queue, name)
        limits = await queue.limits(name, lane, **changes)
        lanes, rest = await _lanes_of(queue, name, cursor) if lane is None else ((), None)
        if surface.is_json:
            more = {"lanes": [_settings(each) for each in lanes], "cursor": rest} if lane is None else {}
            output.print_json({**_document(limits), **more})
            return DONE
        output.print_fields((field, "none" if value is None else value) for field, value in _shown(limits))
        if lanes:
            click.echo()
            output.print_table(_OF_LANE, map(_row, lanes), empty="")
        if rest is not None:
            output.say(f"There are more lanes: --cursor '{rest}'")
        return DONE

    return with_queue(surface, work)


async def _lanes_of(queue: PsyQueue, name: str, cursor: str | None) -> tuple[tuple[Limits, ...], str | None]:
    """A page of lanes with limits, and the cursor of the rest."""
    backend: BackendAdapter = queue.get_exposed("backend")
    return await backend.lane_limits(name, "", read_cursor(cursor), ITEMS_MAX)


def _settings(limits: Limits) -> dict[str, Any]:
    """What a lane may have."""
    return {field: getattr(limits, field) for field in _OF_LANE}


def _row(limits: Limits) -> list[object]:
    """For people: the default lane has no name."""
    settings = _settings(limits)
    return [settings.pop("lane") or '""', *("none" if value is None else value for value in settings.values())]


def _document(limits: Limits) -> dict[str, Any]:
    document: dict[str, Any] = {"queue": limits.queue, **_settings(limits)}
    for field in _RETENTION:
        rule = getattr(limits, field)
        document[field] = None if rule is None else {"age_ms": rule[0], "count": rule[1]}
    return document


def _shown(limits: Limits) -> list[tuple[str, Any]]:
    """For people: an unset lane is not worth a line, the retention is told in words."""
    fields = [(field, value) for field, value in _document(limits).items() if field != "lane" or value is not None]
    told: list[tuple[str, Any]] = []
    for field, value in fields:
        rule = getattr(limits, field) if field in _RETENTION else None
        told.append((field, value if rule is None else f"{span(rule[0])}, {counted(rule[1], 'job')}"))
    return told
