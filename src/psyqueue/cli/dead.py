"""`psyqueue dead ls|groups|replay|purge`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click
from msgspec.structs import replace

from psyqueue import JobView, PsyQueue
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.cli import output
from psyqueue.cli.bulk import change_all, how_options
from psyqueue.cli.enqueue import instant
from psyqueue.cli.filtered import FilteredCommand
from psyqueue.cli.surface import DONE, Surface, on_store, with_queue
from psyqueue.job import Status
from psyqueue.operating.deeds import DELETE, RETRY
from psyqueue.operating.failures import failure_groups
from psyqueue.operating.query import Term, Value, check_terms
from psyqueue.operating.selection import Selection

GROUPED_MAX = 20_000
_COLUMNS = ("id", "queue", "name", "reason", "attempt", "died_at", "last_error")
_GROUP_COLUMNS = ("count", "name", "died_of", "queues", "last_at")
_DEAD: tuple[Status, ...] = ("dead",)
_REPLAY = replace(RETRY, key="replayed")
_PURGE = replace(DELETE, key="purged", statuses=_DEAD)


@click.group()
def dead() -> None:
    """Jobs that were given up: look at them, run them again, delete them."""


@dead.command("ls", cls=FilteredCommand)
@click.argument("filter_words", metavar="[FILTER]", nargs=-1)
@click.option("--queue", help="Of this queue.")
@click.option("--name", help="Of this name.")
@click.option("--limit", type=click.IntRange(1, ITEMS_MAX), default=50, show_default=True, help="Jobs at most.")
@click.option("--cursor", help="Go on where an earlier call ended.")
@on_store
def dead_ls(surface: Surface, filter_words: tuple[str, ...], limit: int, cursor: str | None, **options: Any) -> int:
    """List dead jobs with their last error."""
    terms = _terms(filter_words, **options)

    async def work(opened: PsyQueue) -> int:
        found, rest = await (await Selection.open(opened, terms, _DEAD, say=output.say)).page(limit, cursor)
        items = [_item(view) for view in found]
        if surface.is_json:
            output.print_json({"items": items, "cursor": rest})
            return DONE
        output.print_table(_COLUMNS, ([item[column] for column in _COLUMNS] for item in items), empty="No job is dead.")
        if rest is not None:
            output.say(f"There are more: --cursor '{rest}'")
        return DONE

    return with_queue(surface, work)


@dead.command("groups", cls=FilteredCommand)
@click.argument("filter_words", metavar="[FILTER]", nargs=-1)
@click.option("--queue", help="Of this queue.")
@click.option("--name", help="Of this name.")
@click.option("--limit", type=click.IntRange(1, ITEMS_MAX), default=20, show_default=True, help="Groups at most.")
@on_store
def dead_groups(surface: Surface, filter_words: tuple[str, ...], limit: int, **options: Any) -> int:
    """Group dead jobs by what killed them, the largest group first.

    With --json each group has a `where`: the filter that finds it for `dead replay` and `dead purge`.
    """
    terms = _terms(filter_words, **options)

    async def work(opened: PsyQueue) -> int:
        found = await failure_groups(opened, terms, jobs_max=GROUPED_MAX)
        groups = found.groups[:limit]
        if not found.is_complete:
            output.say(f"psyqueue: only the first {GROUPED_MAX:,} dead jobs were looked at. queue: chooses others")
        if surface.is_json:
            output.print_json({"items": groups, "looked": found.looked, "complete": found.is_complete})
            return DONE
        rows = [
            (each.count, each.name, each.error or each.reason, ", ".join(each.queues), each.last_at) for each in groups
        ]
        output.print_table(_GROUP_COLUMNS, rows, empty="No job is dead.")
        return DONE

    return with_queue(surface, work)


@dead.command("replay", cls=FilteredCommand)
@click.argument("filter_words", metavar="[FILTER]", nargs=-1)
@click.option("--queue", help="Of this queue.")
@click.option("--name", help="Of this name.")
@how_options(rate=True)
@on_store
def dead_replay(
    surface: Surface, filter_words: tuple[str, ...], queue: str | None, name: str | None, **how: Any
) -> int:
    """Run dead jobs again from the start, all or those that fit; `jobs retry ID` is for single ones."""
    return change_all(surface, _REPLAY, _terms(filter_words, queue, name), **how)


@dead.command("purge", cls=FilteredCommand)
@click.argument("filter_words", metavar="[FILTER]", nargs=-1)
@click.option("--queue", help="Of this queue.")
@click.option("--name", help="Of this name.")
@click.option("--before", type=instant, metavar="ISO", help="Only those that died before.")
@how_options()
@on_store
def dead_purge(
    surface: Surface,
    filter_words: tuple[str, ...],
    queue: str | None,
    name: str | None,
    before: datetime | None,
    **how: Any,
) -> int:
    """Delete dead jobs for good, with their errors: all, or those that fit."""
    return change_all(surface, _PURGE, _terms(filter_words, queue, name, before), **how)


def _terms(
    filter_words: tuple[str, ...], queue: str | None = None, name: str | None = None, before: datetime | None = None
) -> tuple[Term, ...]:
    terms = list(check_terms(" ".join(filter_words)))
    named = (("queue", queue), ("name", name))
    terms += [Term(field, (Value(text, is_literal=True),)) for field, text in named if text is not None]
    if before is not None:
        terms.append(Term("completed", (Value(before.isoformat()),), "<"))
    return tuple(terms)


def _item(view: JobView) -> dict[str, Any]:
    error = view.errors[-1] if view.errors else {}
    return {
        "id": view.id,
        "queue": view.queue,
        "name": view.name,
        "reason": view.reason,
        "attempt": view.attempt,
        "died_at": view.completed_at,
        "last_error": f"{error.get('type', '')}: {error.get('message', '')}" if error else None,
    }
