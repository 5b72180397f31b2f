"""To change all jobs that fit a filter: never without a number and a yes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from psyqueue import PsyQueue
from psyqueue.cli import output
from psyqueue.cli.surface import DONE, Surface, confirm, with_queue
from psyqueue.operating.deeds import Deed
from psyqueue.operating.pace import read_pace
from psyqueue.operating.query import Term, check_terms
from psyqueue.operating.selection import Selection
from psyqueue.words import counted


def bulk_options(*, rate: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--where`, `--yes`, `--dry-run`, and `--rate`."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        return click.option("--where", metavar="FILTER", help="All that fit, e.g. 'queue:mail age:>1h'.")(
            how_options(rate=rate)(command)
        )

    return add


def how_options(*, rate: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--yes`, `--dry-run`, and `--rate`."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        if rate:
            command = click.option("--rate", metavar="N/s", help="No faster than e.g. 10/s, 600/m, 100/h.")(command)
        command = click.option("--dry-run", is_flag=True, help="Only count.")(command)
        return click.option("--yes", is_flag=True, help="Do not ask.")(command)

    return add


def change_many(
    surface: Surface, deed: Deed, *, where: str | None, yes: bool, dry_run: bool, rate: str | None = None
) -> int:
    """Of `jobs retry|cancel|rm`. Raises UsageError where no filter says which."""
    if where is None:
        raise click.UsageError("name the jobs by their ids, or by --where FILTER; --where '' means all")
    return change_all(surface, deed, check_terms(where), yes=yes, dry_run=dry_run, rate=rate)


def change_all(
    surface: Surface, deed: Deed, terms: tuple[Term, ...], *, yes: bool, dry_run: bool, rate: str | None = None
) -> int:
    """Count, ask, do it; the exit code."""
    pace = read_pace(rate)

    async def work(queue: PsyQueue) -> int:
        selection = await Selection.open(queue, terms, deed.statuses, say=output.say)
        if dry_run:
            count = await selection.count()
            _tell(surface, {"dry_run": True, "matching": count}, f"{counted(count, 'job')} would be {deed.done}")
            return DONE
        if not yes and (count := await selection.count()):
            confirm(f"{deed.question.format(jobs=counted(count, 'job'))}?", is_confirmed=False)
        changed = await selection.change(deed.change, pace)
        left = f"; {counted(changed.skipped, 'job')} left as they are" if changed.skipped else ""
        answer = {"dry_run": False, deed.key: changed.count, "skipped": changed.skipped}
        _tell(surface, answer, f"{counted(changed.count, 'job')} {deed.done}{left}")
        return DONE

    return with_queue(surface, work)


def _tell(surface: Surface, document: dict[str, Any], text: str) -> None:
    if surface.is_json:
        output.print_json(document)
    else:
        click.echo(text)
