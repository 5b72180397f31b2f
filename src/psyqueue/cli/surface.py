"""What all commands share: which store, how to answer, and the way from a coroutine to an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any

import click

from psyqueue import PsyQueue
from psyqueue.backend import BackendAdapter
from psyqueue.backends import BackendPlugin
from psyqueue.cli import colour
from psyqueue.cli._load import load_queue, open_queue, url_for
from psyqueue.cli.existing import as_it_is, backend_at, is_in_memory, require_store
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
    """`url` is the store of --backend, else the one that is set; `is_url_given`: it stood on the command line.

    `app`: the `module:queue` of --app.
    """

    url: str | None = None
    is_url_given: bool = False
    is_json: bool = False
    app: str | None = None

    def require_url(self) -> str:
        """Raises ConfigError where no store was named."""
        if self.url is None:
            raise ConfigError(f"no store named. Give --backend URL or set {URL_VARIABLE}, e.g. 'sqlite:./jobs.db'")
        return self.url

    def application(self) -> PsyQueue | None:
        """The queue of --app as its module made it: it is not ours to start. Raises ConfigError."""
        if self.app is None:
            return None
        # What a module prints while it is imported is no answer.
        with contextlib.redirect_stdout(sys.stderr):
            return load_queue(self.app)

    def queue(self) -> PsyQueue:
        """One of our own on the named store as it is, without handlers and plugins, not started. Raises ConfigError."""
        return _our_own(as_it_is(self._backend()))

    def producer(self) -> PsyQueue:
        """Where new jobs go through, not started: the queue of --app itself, or one of our own. Raises ConfigError."""
        if self.app is None:
            return _our_own(backend_at(self.require_url()))
        with contextlib.redirect_stdout(sys.stderr):
            queue = open_queue(self.app, self.url, is_url_given=self.is_url_given)
        self._refuse_memory(queue.get_exposed("backend"))
        return queue

    def _refuse_memory(self, backend: BackendAdapter) -> None:
        if is_in_memory(backend):
            text = f"{self.app} keeps its jobs in its own memory, where no other process can look at them"
            raise ConfigError(f"{text}. use() a store there that it shares, e.g. sqlite(path='./jobs.db')")

    def _backend(self) -> BackendAdapter:
        application = self.application()
        if application is None or self.app is None:
            return backend_at(self.require_url())
        url = url_for(application, self.app, self.url, is_url_given=self.is_url_given)
        if url is not None:
            return backend_at(url)
        backend: BackendAdapter = application.get_exposed("backend")
        self._refuse_memory(backend)
        return backend


def _our_own(backend: BackendAdapter) -> PsyQueue:
    return PsyQueue(name="psyqueue-cli").use(BackendPlugin("backend", backend))


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--backend`, `--json` and `--color`, which may stand before it too, and hand it the Surface."""

    def run(surface: Surface, /, *arguments: Any, **options: Any) -> Any:
        if surface.app is not None:
            raise click.UsageError("--app is for commands that look at a store or change what is in it")
        return command(surface, *arguments, **options)

    return _with_options(update_wrapper(run, command))


def on_store(command: Callable[..., Any]) -> Callable[..., Any]:
    """As `common`, with `--app`: for commands that look at a store or change what is in it."""
    return _with_app("The store of this application, e.g. shop.jobs:q.")(_with_options(command))


def as_application(command: Callable[..., Any]) -> Callable[..., Any]:
    """As `common`, with `--app`: for commands that do what an application does."""
    return _with_app("As this application does it, e.g. shop.jobs:q.")(_with_options(command))


def _with_app(meaning: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--app", metavar="MODULE:QUEUE", expose_value=False, callback=_note_app, help=meaning)


def _with_options(command: Callable[..., Any]) -> Callable[..., Any]:
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


def _note_app(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.ensure_object(Surface).app = value


def with_queue(surface: Surface, work: Callable[[PsyQueue], Awaitable[int]]) -> int:
    """Run `work(q)` on a started queue of our own and return its exit code.

    A command that only looks or changes does not create a store: StoreUnusable where there is none.
    """
    queue = surface.queue()
    require_store(queue.get_exposed("backend"))
    return work_on(queue, work)


def work_on(queue: PsyQueue, work: Callable[[PsyQueue], Awaitable[int]]) -> int:
    """Start `queue`, run `work(q)`, and return its exit code."""

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
