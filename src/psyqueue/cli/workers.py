"""`psyqueue workers ls|drain|stop`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from msgspec.structs import asdict

from psyqueue import PsyQueue
from psyqueue.backend import SessionInfo
from psyqueue.backend.compose import all_sessions
from psyqueue.cli import output
from psyqueue.cli.surface import DONE, NO, Surface, confirm, on_store, with_queue
from psyqueue.clock import SystemClock, span, to_ms
from psyqueue.errors import InvalidState
from psyqueue.kernel.orders import Order, give_order
from psyqueue.operating.query import Value
from psyqueue.operating.workers import WorkerLine, worker_lines
from psyqueue.words import counted

_COLUMNS = ("worker", "state", "held", "slots", "queues", "opened_at", "lease", "version", "host", "pid")
LOOK_AGAIN_MS = 250


@click.group()
def workers() -> None:
    """Look at running workers, and tell them to end."""


@workers.command("ls")
@on_store
def workers_ls(surface: Surface) -> int:
    """All open sessions: which workers run, on which queues, with how many jobs.

    late: its lease has ended and nobody has taken its jobs back yet. draining: it was told to end.
    """

    async def work(queue: PsyQueue) -> int:
        backend = queue.get_exposed("backend")
        lines = await worker_lines(backend, await all_sessions(backend))
        if surface.is_json:
            output.print_json({"items": lines})
            return DONE
        output.print_table(_COLUMNS, map(_row, lines), empty="No worker runs.")
        return DONE

    return with_queue(surface, work)


def _order_options(command: Any) -> Any:
    """What `drain` and `stop` share."""
    for option in (
        click.option("--wait", metavar="DURATION", help="Until they have ended, for so long at most."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Only say which."),
    ):
        command = option(command)
    return click.argument("names", metavar="WORKER...", nargs=-1, required=True)(command)


@workers.command("drain")
@_order_options
@on_store
def workers_drain(surface: Surface, names: tuple[str, ...], **how: Any) -> int:
    """Tell workers to take no more jobs, and to end when those that run have ended, however long that takes.

    WORKER is a name or a session id; * stands for any text.
    """
    return _order(surface, names, Order("drain"), **how)


@workers.command("stop")
@click.option("--grace", metavar="DURATION", help="For running jobs; that of the worker by default.")
@_order_options
@on_store
def workers_stop(surface: Surface, names: tuple[str, ...], grace: str | None, **how: Any) -> int:
    """Tell workers to end as SIGTERM does: what runs gets the grace, then it is cancelled and handed back.

    WORKER is a name or a session id; * stands for any text.
    """
    return _order(surface, names, Order("stop", None if grace is None else to_ms("grace", grace)), **how)


def _order(surface: Surface, names: Sequence[str], order: Order, *, wait: str | None, yes: bool, dry_run: bool) -> int:
    wait_ms = None if wait is None else to_ms("wait", wait)

    async def work(queue: PsyQueue) -> int:
        backend = queue.get_exposed("backend")
        meant = _meant(names, await all_sessions(backend))
        ids = [info.session.id for info in meant]
        held = sum(info.held for info in meant)
        count = f"{counted(len(meant), 'worker')} with {counted(held, 'job')}"
        if not dry_run:
            confirm(f"Tell {count} to {order.kind}?", is_confirmed=yes)
            await give_order(queue._core, ids, order)  # noqa: SLF001 - operators alone do this
        is_over = None if wait_ms is None or dry_run else await _are_gone(queue, ids, wait_ms)
        if surface.is_json:
            told = [{"worker": info.session.worker, "session_id": info.session.id, "held": info.held} for info in meant]
            output.print_json({"dry_run": dry_run, "order": order.kind, "workers": told, "ended": is_over})
        else:
            click.echo(f"{count} {'would be' if dry_run else 'were'} told to {order.kind}")
        if is_over is False:
            output.say(f"psyqueue: not all of them have ended within {span(wait_ms or 0)}")
            return NO
        return DONE

    return with_queue(surface, work)


def _meant(names: Sequence[str], sessions: Sequence[SessionInfo]) -> list[SessionInfo]:
    """Raises InvalidState for a name that no worker has."""
    meant: dict[str, SessionInfo] = {}
    for name in names:
        value = Value(name)
        found = [info for info in sessions if value.matches(info.session.worker) or info.session.id == name]
        if not found:
            running = ", ".join(sorted({info.session.worker for info in sessions})) or "none"
            raise InvalidState(f"no worker {name!r} runs; there are: {running}")
        meant |= {info.session.id: info for info in found}
    return list(meant.values())


async def _are_gone(queue: PsyQueue, ids: Sequence[str], wait_ms: int) -> bool:
    clock, backend = SystemClock(), queue.get_exposed("backend")
    until_ms = clock.mono_ms() + wait_ms
    while True:
        left = {info.session.id for info in await all_sessions(backend)} & set(ids)
        if not left or clock.mono_ms() >= until_ms:
            return not left
        await clock.sleep_ms(LOOK_AGAIN_MS)


def _row(line: WorkerLine) -> list[object]:
    left_ms = line.lease_left_ms
    lease = f"over for {span(left_ms)}" if left_ms < 0 else f"another {span(left_ms)}"
    shown = {**asdict(line), "queues": ", ".join(line.queues), "lease": lease}
    return [shown[column] for column in _COLUMNS]
