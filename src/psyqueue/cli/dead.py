"""`psyqueue dead ls|replay|purge`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import click

from psyqueue import JobView, PsyQueue
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.cli import output
from psyqueue.cli.enqueue import instant
from psyqueue.cli.surface import DONE, Surface, common, confirm, with_queue

_COLUMNS = ("id", "queue", "name", "reason", "attempt", "died_at", "last_error")


@click.group()
def dead() -> None:
    """Jobs that were given up: look at them, run them again, delete them."""


@dead.command("ls")
@click.option("--queue", help="Of this queue.")
@click.option("--name", help="Of this name.")
@click.option("--limit", type=click.IntRange(1, ITEMS_MAX), default=50, show_default=True, help="Jobs at most.")
@click.option("--cursor", help="Go on where an earlier call ended.")
@common
def dead_ls(surface: Surface, queue: str | None, name: str | None, limit: int, cursor: str | None) -> int:
    """List dead jobs with their last error."""

    async def work(opened: PsyQueue) -> int:
        page = await opened.dead_letter.list(queue=queue, name=name, limit=limit, cursor=cursor)
        items = [_item(view) for view in page.items]
        if surface.is_json:
            output.print_json({"items": items, "cursor": page.cursor})
            return DONE
        output.print_table(_COLUMNS, ([item[column] for column in _COLUMNS] for item in items), empty="No job is dead.")
        if page.cursor is not None:
            output.say(f"There are more: --cursor '{page.cursor}'")
        return DONE

    return with_queue(surface, work)


@dead.command("replay")
@click.option("--queue", help="Of this queue.")
@click.option("--name", help="Of this name.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@common
def dead_replay(surface: Surface, queue: str | None, name: str | None, yes: bool, dry_run: bool) -> int:
    """Run all dead jobs again from the start; `jobs retry ID` is for single ones."""
    if not dry_run:
        confirm(f"Run all dead jobs{_of(queue, name)} again?", is_confirmed=yes)

    async def work(opened: PsyQueue) -> int:
        if dry_run:
            return _tell_dry(surface, await _count(opened, queue, name, None), "would run again")
        count = await opened.dead_letter.replay_all(queue=queue, name=name)
        return _tell(surface, "replayed", count, "run again")

    return with_queue(surface, work)


@dead.command("purge")
@click.option("--queue", help="Of this queue.")
@click.option("--name", help="Of this name.")
@click.option("--before", type=instant, metavar="ISO", help="Only those that died before.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@common
def dead_purge(
    surface: Surface, queue: str | None, name: str | None, before: datetime | None, yes: bool, dry_run: bool
) -> int:
    """Delete dead jobs for good, with their errors."""
    if not dry_run:
        since = "" if before is None else f" from before {before.isoformat()}"
        confirm(f"Delete all dead jobs{_of(queue, name)}{since} for good?", is_confirmed=yes)

    async def work(opened: PsyQueue) -> int:
        if dry_run:
            return _tell_dry(surface, await _count(opened, queue, name, before), "would be deleted")
        count = await opened.dead_letter.purge(queue=queue, name=name, before=before)
        return _tell(surface, "purged", count, "deleted")

    return with_queue(surface, work)


async def dead_jobs(opened: PsyQueue, queue: str | None, name: str | None) -> AsyncIterator[JobView]:
    """All of them, page by page."""
    cursor: str | None = None
    while True:
        page = await opened.dead_letter.list(queue=queue, name=name, limit=ITEMS_MAX, cursor=cursor)
        for view in page:
            yield view
        cursor = page.cursor
        if cursor is None:
            return


async def _count(opened: PsyQueue, queue: str | None, name: str | None, before: datetime | None) -> int:
    count = 0
    async for view in dead_jobs(opened, queue, name):
        count += before is None or (view.completed_at is not None and view.completed_at < before)
    return count


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


def _of(queue: str | None, name: str | None) -> str:
    return (f" of queue {queue!r}" if queue else "") + (f" named {name!r}" if name else "")


def _tell(surface: Surface, key: str, count: int, what: str) -> int:
    if surface.is_json:
        output.print_json({"dry_run": False, key: count})
    else:
        click.echo(f"{count:,} dead jobs {what}")
    return DONE


def _tell_dry(surface: Surface, count: int, what: str) -> int:
    if surface.is_json:
        output.print_json({"dry_run": True, "matching": count})
    else:
        click.echo(f"{count:,} dead jobs {what}")
    return DONE
