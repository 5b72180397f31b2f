"""`psyqueue workers ls`."""

from __future__ import annotations

from typing import Any

import click

from psyqueue import PsyQueue
from psyqueue.backend import SessionInfo
from psyqueue.cli import output
from psyqueue.cli.reading import all_sessions
from psyqueue.cli.surface import DONE, Surface, common, with_queue
from psyqueue.clock import to_datetime


@click.group()
def workers() -> None:
    """Look at running workers."""


@workers.command("ls")
@common
def workers_ls(surface: Surface) -> int:
    """All open sessions: which workers run, on which queues, with how many jobs.

    late: its lease has ended and nobody has taken its jobs back yet.
    """

    async def work(queue: PsyQueue) -> int:
        items = [_item(info) for info in await all_sessions(queue.get_exposed("backend"))]
        if surface.is_json:
            output.print_json({"items": items})
            return DONE
        columns = ("worker", "state", "held", "queues", "opened_at", "lease_left_ms")
        rows = (
            (*(item[name] for name in columns[:3]), ", ".join(item["queues"]), *(item[name] for name in columns[4:]))
            for item in items
        )
        output.print_table(columns, rows, empty="No worker runs.")
        return DONE

    return with_queue(surface, work)


def _item(info: SessionInfo) -> dict[str, Any]:
    return {
        "worker": info.session.worker,
        "session_id": info.session.id,
        "queues": list(info.session.queues),
        "held": info.held,
        "opened_at": to_datetime(info.opened_at_ms),
        "lease_ms": info.session.lease_ms,
        "lease_left_ms": info.expires_in_ms,
        "state": "late" if info.expires_in_ms < 0 else "open",
    }
