"""What all commands share: which store, how to answer, and the way from a coroutine to an exit code."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import click

from psyqueue import PsyQueue
from psyqueue.cli import colour
from psyqueue.cli.existing import as_it_is, require_store
from psyqueue.errors import ConfigError, JobEnded, PayloadError, PsyQueueError, Refused, ResultTimeout, TooLarge

DONE = 0
NO = 1
"""The answer is no: a check failed, nothing was found, the store refused."""
WRONG_USE = 2
"""Wrong use, or no store."""
DISMISSED = 3
"""Between a worker process and its supervisor: an operator told it to end."""
BROKEN = 70
"""The process cannot go on: a worker ended by a failure, the event loop hangs, a defect of ours."""

URL_VARIABLE = "PSYQUEUE_URL"


@dataclass(slots=True)
class Surface:
    """`url` is the store of --backend, else the one that is set; `is_url_given`: it stood on the command line."""

    url: str | None = None
    is_url_given: bool = False
    is_json: bool = False

    def require_url(self) -> str:
        """Raises ConfigError where no store was named."""
        if self.url is None:
            raise ConfigError(f"no store named. Give --backend URL or set {URL_VARIABLE}, e.g. 'sqlite:./jobs.db'")
        return self.url

    def queue(self, *, may_create: bool = False) -> PsyQueue:
        """A queue on the named store, without handlers, not started. Raises ConfigError."""
        url = self.require_url()
        return PsyQueue.from_url(url if may_create else as_it_is(url), name="psyqueue-cli")


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--backend`, `--json` and `--color`, which may stand before it too, and hand it the Surface."""
    as_json = click.option(
        "--json", is_flag=True, expose_value=False, callback=_note_json, help="Answer with one JSON document."
    )
    backend = click.option(
        "--backend",
        metavar="URL",
        expose_value=False,
        callback=_note_backend,
        help=f"The store, e.g. sqlite:./jobs.db; {URL_VARIABLE} by default.",
    )
    coloured = click.option(
        "--color",
        type=click.Choice(colour.WHEN),
        expose_value=False,
        callback=colour.note,
        help="auto: on a terminal, unless NO_COLOR is set.",
    )
    return as_json(backend(coloured(click.pass_obj(command))))


def _note_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Surface).is_json = True


def _note_backend(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        surface = context.ensure_object(Surface)
        surface.url, surface.is_url_given = value, True


def with_queue(surface: Surface, work: Callable[[PsyQueue], Awaitable[int]], *, may_create: bool = False) -> int:
    """Run `work(q)` on the started queue and return its exit code.

    A command that only looks or changes does not create a store: StoreUnusable where there is none.
    """
    queue = surface.queue(may_create=may_create)
    if not may_create:
        require_store(surface.require_url())

    async def run() -> int:
        async with queue:
            return await work(queue)

    return asyncio.run(run())


def exit_code_of(error: PsyQueueError) -> int:
    """1 for what the store or the state of a job refused, 2 for wrong use and for a store that is not there."""
    is_no = isinstance(error, Refused | JobEnded | ResultTimeout) and not isinstance(error, PayloadError | TooLarge)
    return NO if is_no else WRONG_USE


def confirm(question: str, *, is_confirmed: bool) -> None:
    """Ask a person, unless `--yes` was given. Raises UsageError where nobody can answer, Abort for a no."""
    if is_confirmed:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Give --yes to do it, or --dry-run to see what would be done.")
    click.confirm(question, abort=True, err=True)
