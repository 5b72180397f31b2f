"""`psyqueue top`: queues, rates, the oldest waiting job, workers and failures, again and again."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from psyqueue import PsyQueue
from psyqueue.cli import colour, output
from psyqueue.cli.surface import DONE, Surface, on_store, with_queue
from psyqueue.clock import SystemClock, span, to_datetime, to_ms
from psyqueue.kernel.presence import presence_of
from psyqueue.operating.queues import QueueLine, Snapshot, look, queue_lines
from psyqueue.words import counted

INTERVAL_MS_MIN = 100
HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
OTHER_SCREEN, OWN_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_COUNTS = ("pending", "active", "scheduled", "waiting", "dead")
_QUEUES = ("queue", "state", *_COUNTS, "ended/s", "dead/s", "oldest", "workers")
_WORKERS = ("worker", "state", "held", "slots", "queues", "up")


@click.command()
@click.option("--interval", default="1s", show_default=True, metavar="DURATION", help="Between two looks.")
@click.option("--once", is_flag=True, help="Look once; so also with --json or without a terminal.")
@on_store
def top(surface: Surface, interval: str, once: bool) -> int:
    """Watch queues and workers live; Ctrl-C ends it."""
    interval_ms = to_ms("interval", interval, minimum_ms=INTERVAL_MS_MIN)
    is_live = sys.stdout.isatty() and not once and not surface.is_json

    async def work(queue: PsyQueue) -> int:
        if is_live:
            await _watch(queue, interval_ms)
            return DONE
        seen = await look(queue.get_exposed("backend"))
        if surface.is_json:
            output.print_json(_document(seen))
        else:
            click.echo("\n".join(frame(seen, width=output.terminal_width())))
        return DONE

    try:
        return with_queue(surface, work)
    except KeyboardInterrupt:
        return DONE


async def _watch(queue: PsyQueue, interval_ms: int) -> None:
    """On a screen of its own, which is left however this ends."""
    click.echo(OTHER_SCREEN, nl=False)
    try:
        while True:
            seen = await look(queue.get_exposed("backend"))
            size = shutil.get_terminal_size()
            lines = frame(seen, width=size.columns)[: size.lines - 1]
            click.echo(HOME + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_BELOW, nl=False, color=True)
            await SystemClock().sleep_ms(interval_ms)
    finally:
        click.echo(OWN_SCREEN, nl=False)


# ── what is shown ─────────────────────────────────────────────────────────────────────────────────────────────────────
def frame(seen: Snapshot, *, width: int | None) -> list[str]:
    """All lines: a head, the queues, the workers."""
    lines = queue_lines(seen)
    pending, active, dead = (sum(getattr(line, name) for line in lines) for name in ("pending", "active", "dead"))
    at = to_datetime(seen.now_ms).isoformat(sep=" ", timespec="seconds")
    head = f"psyqueue top  {seen.store}  {at}  {seen.mode if seen.mode != 'open' else ''}".rstrip()
    who = f"{counted(len(lines), 'queue')}, {counted(len(seen.sessions), 'worker')}"
    facts = f"{who}; {pending:,} pending, {active:,} active, {dead:,} dead"
    shown = [colour.bold(output.clean(head)), facts, ""]
    cells = [[output.cell(value) for value in _queue_row(line)] for line in lines]
    shown += output.table_lines(_QUEUES, cells, width=width) if cells else ["No queue has jobs."]
    workers = [[output.cell(value) for value in row] for row in _worker_rows(seen)]
    shown += ["", *output.table_lines(_WORKERS, workers, width=width)] if workers else ["", "No worker runs."]
    return shown


def _queue_row(line: QueueLine) -> list[object]:
    rates = [f"{rate:,.1f}" for rate in (line.ended_per_second, line.dead_per_second)]
    oldest = "" if line.oldest_pending_ms is None else span(line.oldest_pending_ms)
    counts = [f"{getattr(line, name):,}" for name in _COUNTS]
    return [line.queue, line.state, *counts, *rates, oldest, line.workers]


def _worker_rows(seen: Snapshot) -> Iterator[list[object]]:
    for info in sorted(seen.sessions, key=lambda each: each.session.worker):
        state = "late" if info.expires_in_ms < 0 else "open"
        up = span(max(0, seen.now_ms - info.opened_at_ms))
        slots = presence_of(info.session).slots or "-"
        yield [info.session.worker, state, info.held, slots, ", ".join(info.session.queues), up]


def _document(seen: Snapshot) -> dict[str, Any]:
    workers = [
        {
            "worker": info.session.worker,
            "session_id": info.session.id,
            "queues": list(info.session.queues),
            "held": info.held,
            "slots": presence_of(info.session).slots or None,
            "lease_left_ms": info.expires_in_ms,
        }
        for info in seen.sessions
    ]
    queues = [msgspec.structs.asdict(line) for line in queue_lines(seen)]
    return {
        "store": seen.store,
        "mode": seen.mode,
        "at": to_datetime(seen.now_ms),
        "queues": queues,
        "workers": workers,
    }
