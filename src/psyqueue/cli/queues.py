"""`psyqueue queues ls|pause|resume|limits`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from psyqueue import PsyQueue
from psyqueue.backend import UNTIL_RESUMED, QueueInfo
from psyqueue.backend.compose import all_queues, all_sessions
from psyqueue.backend.reading import is_paused
from psyqueue.cli import output
from psyqueue.cli.enqueue import instant
from psyqueue.cli.queue_limits import queues_limits
from psyqueue.cli.reading import tell_if_unknown
from psyqueue.cli.surface import DONE, Surface, on_store, with_queue
from psyqueue.clock import to_datetime
from psyqueue.job import STATUSES
from psyqueue.operating.queues import state_of


@click.group()
def queues() -> None:
    """Look at queues, pause and resume them, limit them."""


@queues.command("ls")
@click.option("--prefix", default="", help="Only queues whose name begins so.")
@on_store
def queues_ls(surface: Surface, prefix: str) -> int:
    """All queues with their jobs by status, and one word for how each is doing.

    running: jobs run. idle: nothing to do. paused. stalled: jobs are pending, and no worker takes them.
    """

    async def work(queue: PsyQueue) -> int:
        backend = queue.get_exposed("backend")
        info = await backend.info()
        served = {name for info in await all_sessions(backend) for name in info.session.queues}
        items = [_item(each, served, info.now_ms) for each in await all_queues(backend, prefix)]
        if info.mode == "moved":
            output.say(f"psyqueue: these are left behind: nothing starts here, the jobs live at {info.moved_to}")
        if surface.is_json:
            output.print_json({"items": items})
            return DONE
        rows = ((item["queue"], item["state"], *(item["counts"].get(name, 0) for name in STATUSES)) for item in items)
        output.print_table(("queue", "state", *STATUSES), rows, empty="No queue has jobs.")
        return DONE

    return with_queue(surface, work)


@queues.command("pause")
@click.argument("name", metavar="QUEUE")
@click.option("--until", type=instant, metavar="ISO", help="Resume by itself at e.g. 2026-12-01T09:00:00Z.")
@on_store
def queues_pause(surface: Surface, name: str, until: datetime | None) -> int:
    """Start nothing more of QUEUE; what runs goes on."""

    async def work(queue: PsyQueue) -> int:
        await tell_if_unknown(queue, name)
        await queue.pause(name, until=until)
        _tell(surface, name, is_paused=True)
        return DONE

    return with_queue(surface, work)


@queues.command("resume")
@click.argument("name", metavar="QUEUE")
@on_store
def queues_resume(surface: Surface, name: str) -> int:
    """Undo a pause."""

    async def work(queue: PsyQueue) -> int:
        await tell_if_unknown(queue, name)
        await queue.resume(name)
        _tell(surface, name, is_paused=False)
        return DONE

    return with_queue(surface, work)


queues.add_command(queues_limits)


def _item(info: QueueInfo, served: set[str], now_ms: int) -> dict[str, Any]:
    until_ms, oldest_ms = info.limits.paused_until_ms, info.oldest_pending_at_ms
    return {
        "queue": info.queue,
        "counts": info.counts,
        "paused": is_paused(info.limits, now_ms),
        "paused_until": None if until_ms is None or until_ms == UNTIL_RESUMED else to_datetime(until_ms),
        "state": state_of(info, served, now_ms),
        "oldest_pending_at": None if oldest_ms is None else to_datetime(oldest_ms),
        "lanes": info.lanes,
    }


def _tell(surface: Surface, name: str, *, is_paused: bool) -> None:
    if surface.is_json:
        output.print_json({"queue": name, "paused": is_paused})
    else:
        click.echo(output.clean(f"queue {name} is {'paused' if is_paused else 'no longer paused'}"))
