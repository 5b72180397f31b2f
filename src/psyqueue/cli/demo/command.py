"""`psyqueue demo`."""

from __future__ import annotations

import asyncio
import platform
import sqlite3
from pathlib import Path

import click

from psyqueue.cli import output
from psyqueue.cli.demo.display import Display, make_display
from psyqueue.cli.demo.fleet import cpu_count
from psyqueue.cli.demo.place import require_server
from psyqueue.cli.demo.run import Demo, DemoOptions, Report, cancelled_by_signals
from psyqueue.cli.demo.summary import document, show
from psyqueue.cli.surface import DONE, NO, Surface, common

WORKERS_MAX = 32


@click.command()
@click.option(
    "--path",
    type=click.Path(exists=True, path_type=Path),
    help="Count the files of this folder; by default the Python sources of this interpreter.",
)
@click.option("--workers", type=click.IntRange(1, WORKERS_MAX), default=3, show_default=True, help="Worker processes.")
@click.option("--keep", is_flag=True, help="Keep the store, the journal and the workers' log, and say where they are.")
@common
def demo(surface: Surface, path: Path | None, workers: int, keep: bool) -> int:
    """Count thousands of real files with real workers, kill one of them half-way, and check that nothing is lost.

    Needs no store: it makes one in a temporary folder, or, with --backend redis://… or postgresql://…, keys or a schema
    of its own on that server. Exit code 0 only if every check holds.
    """
    # A store that the environment names is not asked for: thousands of jobs do not belong there by accident.
    server = require_server(surface.url) if surface.is_url_given and surface.url else None
    display = make_display(is_json=surface.is_json)
    options = DemoOptions(path=path, workers=workers, keep=keep, server=server)
    try:
        report, signals = asyncio.run(_run(options, display))
    finally:
        display.close()
    if report is None:
        output.say("psyqueue: the demo was interrupted; its processes and files are gone")
        return 128 + signals[0]
    if surface.is_json:
        output.print_json(document(report))
    else:
        show(report, display)
        display.close()
    return DONE if report.verdict.ok else NO


async def _run(options: DemoOptions, display: Display) -> tuple[Report | None, list[int]]:
    """The report; None and the signal if one came first."""
    sqlite = "" if options.server else f" · SQLite {sqlite3.sqlite_version}"
    display.line(f"psyqueue demo · Python {platform.python_version()}{sqlite} · {cpu_count()} CPUs")
    display.line()
    with cancelled_by_signals() as signals:
        try:
            return await Demo(options, display).run(), signals
        except asyncio.CancelledError:
            if not signals:
                raise
            return None, signals
