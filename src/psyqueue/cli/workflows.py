"""`psyqueue workflows show|cancel|resume`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import click

from psyqueue import JobView
from psyqueue.cli import output
from psyqueue.cli.existing import require_store
from psyqueue.cli.surface import DONE, Surface, on_store, work_on
from psyqueue.errors import JobNotFound
from psyqueue.plugins import Workflows, WorkflowView

_COLUMNS = ("step", "status", "attempt", "reason", "started", "completed", "job", "undone")


@click.group()
def workflows() -> None:
    """Work in several steps: look at a workflow, cancel it, go on after a failure."""


@workflows.command("show")
@click.argument("workflow_id", metavar="ID")
@on_store
def workflows_show(surface: Surface, workflow_id: str) -> int:
    """One workflow, with its steps."""

    async def work(opened: Workflows) -> int:
        view = await opened.get(_id(workflow_id))
        if view is None:
            raise JobNotFound(workflow_id)
        return _tell(surface, view)

    return _on_workflows(surface, work)


@workflows.command("cancel")
@click.argument("workflow_id", metavar="ID")
@on_store
def workflows_cancel(surface: Surface, workflow_id: str) -> int:
    """Cancel the steps that have not ended; what was done is undone, where its steps say how."""

    async def work(opened: Workflows) -> int:
        return _tell(surface, await opened.cancel(_id(workflow_id)))

    return _on_workflows(surface, work)


@workflows.command("resume")
@click.argument("workflow_id", metavar="ID")
@on_store
def workflows_resume(surface: Surface, workflow_id: str) -> int:
    """Run its dead steps again, and then what was cancelled because of them."""

    async def work(opened: Workflows) -> int:
        return _tell(surface, await opened.resume(_id(workflow_id)))

    return _on_workflows(surface, work)


def _id(shown: str) -> str:
    """`psyqueue jobs` shows one that was resumed as `ID~1`."""
    return shown.partition("~")[0]


def _on_workflows(surface: Surface, work: Callable[[Workflows], Awaitable[int]]) -> int:
    """On a queue of our own: nothing runs here, and no store is created."""
    queue, opened = surface.queue(), Workflows()
    require_store(queue.get_exposed("backend"))
    queue.use(opened)
    return work_on(queue, lambda _: work(opened))


def _tell(surface: Surface, view: WorkflowView) -> int:
    head: dict[str, Any] = {
        "id": view.id,
        "name": view.name,
        "status": view.status,
        "reason": view.reason,
        "created_at": view.created_at,
        "completed_at": view.completed_at,
    }
    if surface.is_json:
        items = [dict(zip(_COLUMNS, row, strict=True)) for row in _rows(view)]
        output.print_json({**head, "steps": items})
    else:
        output.print_fields(head.items())
        output.print_table(_COLUMNS, _rows(view), empty="")
    return DONE


def _rows(view: WorkflowView) -> Iterator[tuple[Any, ...]]:
    for name, job in view.steps.items():
        undone = _status(view.undoing[name]) if name in view.undoing else None
        if job is None:
            yield (name, "gone", None, None, None, None, None, undone)
        else:
            about = (job.status, job.attempt, job.reason, job.started_at, job.completed_at, job.id)
            yield (name, *about, undone)


def _status(job: JobView | None) -> str:
    return "gone" if job is None else job.status
