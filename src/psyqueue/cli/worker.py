"""`psyqueue worker module:queue`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from psyqueue.cli._load import open_queue
from psyqueue.cli.logs import FORMATS, start_logging
from psyqueue.cli.notify import Notifier
from psyqueue.cli.supervisor import Supervisor, SupervisorPlan
from psyqueue.cli.surface import Surface, common
from psyqueue.cli.worker_plan import PROCESSES_MAX, WorkerPlan, read_lease, read_pools
from psyqueue.cli.worker_process import WorkerProcess, exit_hanging, exit_soon
from psyqueue.clock import to_ms

LEVELS = ("debug", "info", "warning", "error")


@click.command()
@click.argument("target", metavar="MODULE:QUEUE")
@click.option("--queues", metavar="a:20,b:5", help="Queues, each with slots of its own or sharing --concurrency.")
@click.option("--concurrency", type=int, default=10, show_default=True, help="Jobs at once per worker process.")
@click.option(
    "--processes", type=click.IntRange(1, PROCESSES_MAX), default=1, show_default=True, help="Worker processes."
)
@click.option("--grace", metavar="DURATION", default="25s", show_default=True, help="For running jobs at a stop.")
@click.option(
    "--lease", metavar="DURATION", default="30s", show_default=True, help="Jobs of a killed worker wait this long."
)
@click.option("--name", help="Name of the worker; host, pid and number by default.")
@click.option("--health-port", type=click.IntRange(0, 65_535), help="Serve /healthz and /readyz; 0: any free port.")
@click.option("--health-host", default="127.0.0.1", show_default=True, help="Address of the health port.")
@click.option("--reload", "is_reload", is_flag=True, help="Restart when a .py file of the current folder changes.")
@click.option(
    "--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="Of the log on standard error."
)
@click.option(
    "--log-format", type=click.Choice(FORMATS), default="text", show_default=True, help="json: one document a line."
)
@click.option("--supervisor-fd", type=int, hidden=True)
@common
def worker(surface: Surface, target: str, **options: Any) -> int:
    """Run jobs until SIGTERM or SIGINT; a second signal stops at once.

    MODULE:QUEUE is a PsyQueue in a module, e.g. shop.jobs:q; the current folder is importable. Exit code 70: a worker
    failed or its event loop hangs. Exit code 1: the jobs of its store were moved to another one.
    """
    plan = _plan(target, options)
    start_logging(plan.log_level, plan.log_format)
    if options["processes"] > 1 or options["is_reload"]:
        return asyncio.run(_supervise(surface, plan, options))
    queue = open_queue(target, surface.url, is_url_given=surface.is_url_given)
    queue._core.on_hang = exit_hanging  # noqa: SLF001 - a process of its own may exit; a library may not
    queue._core.takes_interrupts = True  # noqa: SLF001 - WorkerProcess does
    code = asyncio.run(WorkerProcess(queue, plan).run(is_json=surface.is_json))
    exit_soon(code)
    return code


def _plan(target: str, options: dict[str, Any]) -> WorkerPlan:
    return WorkerPlan(
        target=target,
        pools=read_pools(options["queues"], options["concurrency"]),
        lease=read_lease(options["lease"]),
        grace_ms=to_ms("grace", options["grace"]),
        name=options["name"],
        health_host=options["health_host"],
        health_port=options["health_port"],
        log_level=options["log_level"],
        log_format=options["log_format"],
        supervisor_fd=options["supervisor_fd"],
    )


async def _supervise(surface: Surface, plan: WorkerPlan, options: dict[str, Any]) -> int:
    """Processes of one worker each; they inherit the environment, so also its store."""
    supervisor = Supervisor(
        SupervisorPlan(
            arguments=lambda slot: _arguments(surface, plan, options, slot),
            processes=options["processes"],
            grace_ms=plan.grace_ms,
            is_json=surface.is_json,
            watched=Path.cwd() if options["is_reload"] else None,
            is_json_log=plan.log_format == "json",
        ),
        Notifier(),
    )
    return await supervisor.run()


def _arguments(surface: Surface, plan: WorkerPlan, options: dict[str, Any], slot: int) -> Sequence[str]:
    """The command line of worker process `slot`: this one, for one process."""
    arguments = ["--backend", surface.url] if surface.is_url_given and surface.url else []
    # One process each, whatever pyproject.toml and the environment say.
    arguments += ["worker", plan.target, "--processes", "1"]
    for option in ("queues", "concurrency", "grace", "lease", "log_level", "log_format", "health_host"):
        if options[option] is not None:
            arguments += [f"--{option.replace('_', '-')}", str(options[option])]
    if plan.name is not None:
        arguments += ["--name", f"{plan.name}.{slot + 1}" if options["processes"] > 1 else plan.name]
    if plan.health_port is not None:
        arguments += ["--health-port", str(plan.health_port + slot if plan.health_port else 0)]
    return arguments
