"""`psyqueue top`: queues, rates, the oldest waiting job, workers and failures, again and again."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click
import msgspec
from msgspec import Struct

from psyqueue import PsyQueue
from psyqueue.backend import QueueInfo, SessionInfo
from psyqueue.backend.compose import all_queues, all_sessions
from psyqueue.cli import colour, output
from psyqueue.cli.queues import state_of
from psyqueue.cli.surface import DONE, Surface, on_store, with_queue
from psyqueue.clock import SystemClock, span, to_datetime, to_ms
from psyqueue.job import TERMINAL
from psyqueue.kernel.presence import presence_of
from psyqueue.words import counted

INTERVAL_MS_MIN = 100
HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
OTHER_SCREEN, OWN_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_COUNTS = ("pending", "active", "scheduled", "waiting", "dead")
_QUEUES = ("queue", "state", *_COUNTS, "ended/s", "dead/s", "oldest", "workers")
_WORKERS = ("worker", "state", "held", "slots", "queues", "up")


class Snapshot(Struct, frozen=True, kw_only=True):
    """One look; `mono_ms` is this machine's, for rates."""

    store: str
    mode: str
    now_ms: int
    mono_ms: float
    queues: Sequence[QueueInfo]
    sessions: Sequence[SessionInfo]


class QueueLine(Struct, frozen=True, kw_only=True):
    """Rates a second since the look before; None at the first, and where jobs were deleted meanwhile."""

    queue: str
    state: str
    pending: int
    active: int
    scheduled: int
    waiting: int
    dead: int
    ended_per_second: float | None
    dead_per_second: float | None
    oldest_pending_ms: int | None
    workers: int


@click.command()
@click.option("--interval", default="1s", show_default=True, metavar="DURATION", help="Between two looks.")
@click.option("--once", is_flag=True, help="Look once, without rates; so also with --json or without a terminal.")
@on_store
def top(surface: Surface, interval: str, once: bool) -> int:
    """Watch queues and workers live; Ctrl-C ends it."""
    interval_ms = to_ms("interval", interval, minimum_ms=INTERVAL_MS_MIN)
    is_live = sys.stdout.isatty() and not once and not surface.is_json

    async def work(queue: PsyQueue) -> int:
        if is_live:
            await _watch(queue, interval_ms)
            return DONE
        seen = await _look(queue)
        if surface.is_json:
            output.print_json(_document(seen))
        else:
            click.echo("\n".join(frame(seen, None, width=output.terminal_width())))
        return DONE

    try:
        return with_queue(surface, work)
    except KeyboardInterrupt:
        return DONE


async def _watch(queue: PsyQueue, interval_ms: int) -> None:
    """On a screen of its own, which is left however this ends."""
    before: Snapshot | None = None
    click.echo(OTHER_SCREEN, nl=False)
    try:
        while True:
            seen = await _look(queue)
            size = shutil.get_terminal_size()
            lines = frame(seen, before, width=size.columns)[: size.lines - 1]
            click.echo(HOME + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_BELOW, nl=False, color=True)
            before = seen
            await SystemClock().sleep_ms(interval_ms)
    finally:
        click.echo(OWN_SCREEN, nl=False)


async def _look(queue: PsyQueue) -> Snapshot:
    backend = queue.get_exposed("backend")
    info = await backend.info()
    return Snapshot(
        store=f"{info.store} {info.version}",
        mode=info.mode,
        now_ms=info.now_ms,
        mono_ms=SystemClock().mono_ms(),
        queues=await all_queues(backend),
        sessions=await all_sessions(backend),
    )


# ── what is shown ─────────────────────────────────────────────────────────────────────────────────────────────────────
def queue_lines(seen: Snapshot, before: Snapshot | None) -> list[QueueLine]:
    """The busiest first: those with the most unstarted and running jobs."""
    served = [name for info in seen.sessions for name in info.session.queues if info.expires_in_ms >= 0]
    old = {info.queue: info for info in before.queues} if before is not None else {}
    passed_s = 0.0 if before is None else (seen.mono_ms - before.mono_ms) / 1000
    lines = []
    for info in seen.queues:
        counts, last = info.counts, old.get(info.queue)
        oldest_ms = info.oldest_pending_at_ms
        lines.append(
            QueueLine(
                queue=info.queue,
                state=state_of(info, set(served), seen.now_ms),
                pending=counts.get("pending", 0),
                active=counts.get("active", 0),
                scheduled=counts.get("scheduled", 0),
                waiting=counts.get("waiting", 0),
                dead=counts.get("dead", 0),
                ended_per_second=_rate(info, last, tuple(TERMINAL), passed_s),
                dead_per_second=_rate(info, last, ("dead",), passed_s),
                oldest_pending_ms=None if oldest_ms is None else max(0, seen.now_ms - oldest_ms),
                workers=served.count(info.queue),
            )
        )
    return sorted(lines, key=lambda line: (-(line.pending + line.active), line.queue))


def _rate(info: QueueInfo, last: QueueInfo | None, statuses: Sequence[str], passed_s: float) -> float | None:
    if last is None or passed_s <= 0:
        return None
    more = sum(info.counts.get(status, 0) - last.counts.get(status, 0) for status in statuses)
    return None if more < 0 else round(more / passed_s, 1)


def frame(seen: Snapshot, before: Snapshot | None, *, width: int | None) -> list[str]:
    """All lines: a head, the queues, the workers."""
    lines = queue_lines(seen, before)
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
    rates = ["" if rate is None else f"{rate:,.1f}" for rate in (line.ended_per_second, line.dead_per_second)]
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
    queues = [msgspec.structs.asdict(line) for line in queue_lines(seen, None)]
    return {
        "store": seen.store,
        "mode": seen.mode,
        "at": to_datetime(seen.now_ms),
        "queues": queues,
        "workers": workers,
    }
