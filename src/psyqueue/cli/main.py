"""The entry point: one group of commands, one way from an error to a line of text and an exit code."""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import click

from psyqueue.cli import colour, output
from psyqueue.cli.check import check, durability
from psyqueue.cli.circuits import circuits
from psyqueue.cli.completion import completion
from psyqueue.cli.dashboard import dashboard
from psyqueue.cli.dead import dead
from psyqueue.cli.demo.command import demo
from psyqueue.cli.doctor import doctor
from psyqueue.cli.enqueue import enqueue
from psyqueue.cli.jobs import jobs
from psyqueue.cli.metrics import metrics
from psyqueue.cli.migrate import migrate
from psyqueue.cli.plugins import plugin_commands
from psyqueue.cli.queues import queues
from psyqueue.cli.schedules import schedules
from psyqueue.cli.schema import schema
from psyqueue.cli.surface import BROKEN, DONE, NO, URL_VARIABLE, WRONG_USE, Surface, exit_code_of
from psyqueue.cli.tenants import tenants
from psyqueue.cli.top import top
from psyqueue.cli.worker import worker
from psyqueue.cli.workers import workers
from psyqueue.cli.workflows import workflows
from psyqueue.config import SETTINGS, misspelt, read_settings, where_set
from psyqueue.errors import InvalidOption, PsyQueueError

INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""


class _Commands(click.Group):
    """Our commands, then those of plugins: ours win, and plugins are only loaded when they may be meant."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or plugin_commands().get(cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *plugin_commands()})


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("psyqueue"), prog_name="psyqueue", message="%(prog)s %(version)s")
@click.option(
    "--backend", metavar="URL", envvar=URL_VARIABLE, help="The store, e.g. sqlite:./jobs.db.", show_envvar=True
)
@click.option("--app", metavar="MODULE:QUEUE", help="Or the store of this application, e.g. shop.jobs:q.")
@click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document.")
@click.option(
    "--color",
    type=click.Choice(colour.WHEN),
    default="auto",
    show_default=True,
    help="auto: on a terminal, unless NO_COLOR is set.",
)
@click.pass_context
def cli(context: click.Context, backend: str | None, app: str | None, as_json: bool, color: str) -> None:
    """A job queue that starts with one line and no server.

    Exit codes: 0 done, 1 the answer is no, 2 wrong use or no store.
    """
    is_given = context.get_parameter_source("backend") is click.core.ParameterSource.COMMANDLINE
    colour.choose(context, color)
    context.obj = Surface(backend or None, is_given, as_json, app)


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

for _command in (
    demo,
    worker,
    enqueue,
    jobs,
    queues,
    dead,
    schedules,
    workflows,
    circuits,
    tenants,
    workers,
    doctor,
    durability,
    check,
    schema,
    migrate,
    top,
    dashboard,
    metrics,
    completion,
):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit. Raises SystemExit."""
    try:
        code = run(sys.argv[1:] if arguments is None else arguments)
    except Exception:  # noqa: BLE001 - a defect, of ours or of a plugin: 1 would mean "the answer is no"
        traceback.print_exc()
        code = BROKEN
    sys.exit(code)


def _defaults() -> dict[str, Any]:
    """What is set in pyproject.toml and in the environment, where click looks for it."""
    settings = read_settings()
    for variable, meant in misspelt():
        output.say(f"psyqueue: {variable} is set, and nobody reads it: did you mean {meant}?")
    return {"backend": settings.pop("url", None), "worker": settings}


def run(arguments: Sequence[str]) -> int:
    """The exit code. Errors become one line on standard error, with --json also a document on standard output."""
    is_json = "--json" in arguments
    # A command says what is wrong by itself; the log is for `psyqueue worker`, which sets it up.
    logging.getLogger("psyqueue").addHandler(logging.NullHandler())
    try:
        code = cli.main(list(arguments), prog_name="psyqueue", standalone_mode=False, default_map=_defaults())
    except click.exceptions.NoArgsIsHelpError as exc:
        if is_json:
            _print_error("WRONG_USE", "no command named")
        exc.show()
        return WRONG_USE
    except click.ClickException as exc:
        name = exc.param.name if isinstance(exc, click.BadParameter) and exc.param is not None else None
        _tell("WRONG_USE", _with_source(exc.format_message(), name, arguments), _way_out(exc), is_json=is_json)
        return WRONG_USE
    except click.Abort as exc:
        is_interrupt = isinstance(exc.__cause__, KeyboardInterrupt)
        output.say("psyqueue: interrupted" if is_interrupt else "psyqueue: nothing was done")
        return INTERRUPTED if is_interrupt else NO
    except PsyQueueError as exc:
        _tell(exc.code, _with_source(exc.message, _option_of(exc), arguments), is_json=is_json)
        return exit_code_of(exc)
    except BrokenPipeError:
        # Whoever read our output is gone (`| head`): nothing to say, and nowhere to say it.
        output.give_up()
        return DONE
    except OSError as exc:
        if exc.errno not in _NO_ROOM or exc.filename is not None:
            raise
        output.give_up()
        output.say(f"psyqueue: what it has to say cannot be written: {exc.strerror}. Free some room, and look again")
        return BROKEN
    except ExceptionGroup as exc:
        output.say(f"psyqueue: {exc.message}: {'; '.join(str(part) for part in exc.exceptions)}")
        return BROKEN
    return code if isinstance(code, int) else DONE


def _tell(code: str, message: str, way_out: str = "", *, is_json: bool) -> None:
    """One line, also of a message that has several: click lists choices below each other."""
    line = " ".join(message.split())
    if is_json:
        _print_error(code, line)
    if way_out and not line.endswith((".", "?")):
        line += "."
    output.say(f"psyqueue: {line}{way_out}")


def _option_of(error: PsyQueueError) -> str | None:
    """The one that it is about."""
    if isinstance(error, InvalidOption):
        return error.option
    return "url" if error.context.keys() & {"url", "scheme"} else None


def _with_source(message: str, option: str | None, arguments: Sequence[str]) -> str:
    """And who set the store, or an option of `psyqueue worker`, where that does not stand on the command line."""
    if option not in SETTINGS or (option != "url" and "worker" not in arguments):
        return message
    flag = "--backend" if option == "url" else f"--{option.replace('_', '-')}"
    is_typed = any(argument.partition("=")[0] == flag for argument in arguments)
    where = "" if is_typed else where_set(option)
    return f"{message.rstrip('.')}. {where} says so" if where else message


def _print_error(code: str, message: str) -> None:
    output.print_json({"error": {"code": code, "message": message}})


def _way_out(error: click.ClickException) -> str:
    """Where to read on; only of what is wrong on the command line."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    return "" if context is None else f" Try '{context.command_path} --help'"
