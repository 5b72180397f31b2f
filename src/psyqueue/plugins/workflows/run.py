"""A workflow that was started: what became of it, read from its jobs, which are all that there is of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

from psyqueue.clock import Duration, to_ms
from psyqueue.errors import JobNotFound, WorkflowFailed
from psyqueue.job import LIVE
from psyqueue.kernel.extension import JobView, Kernel
from psyqueue.plugins.workflows.flow import FINISH, again

if TYPE_CHECKING:
    pass

WorkflowStatus: TypeAlias = Literal["running", "completed", "failed", "cancelled", "compensating", "compensated"]


class WorkflowView(Struct, frozen=True, kw_only=True):
    """A workflow at one moment. `steps` and `undoing` are its jobs, by the names of the steps; None: deleted since.

    `reason` says why it did not complete. `failed` and `cancelled` are ends where nothing is undone; where steps have
    `compensate`, it is `compensating` until that has ended, then `compensated`, also if some of it died: see `undoing`.
    """

    id: str
    name: str
    status: WorkflowStatus
    reason: str
    created_at: datetime
    completed_at: datetime | None
    steps: dict[str, JobView | None]
    undoing: dict[str, JobView | None]


class WorkflowRun:
    """A workflow by its `id`: wait for it, look at it. `created`: by the call that returned this."""

    def __init__(self, kernel: Kernel, workflow_id: str, *, created: bool = False) -> None:
        self.id = workflow_id
        self.created = created
        self._kernel = kernel

    def __repr__(self) -> str:
        return f"<WorkflowRun {self.id}>"

    async def view(self) -> WorkflowView:
        """As it is now. Raises JobNotFound, StoreError."""
        return await viewed(self._kernel, self.id)

    async def wait(self, timeout: Duration | None = None, *, undone: bool = False) -> WorkflowView:
        """As soon as all its steps have ended; with `undone=True`, what undoes them, too.

        Raises JobNotFound, ResultTimeout, StoreError.
        """
        clock = asyncio.get_running_loop().time
        until_s = None if timeout is None else clock() + to_ms("timeout", timeout) / 1000

        async def ended(job_id: str) -> None:
            await self._kernel.handle_of(job_id).wait(None if until_s is None else max(0.0, until_s - clock()))

        while True:
            await ended((await last_job(self._kernel, self.id)).id)
            if (view := await self.view()).status != "running":
                break  # else somebody resumed it meanwhile
        for job in view.undoing.values() if undone else ():
            if job is not None:
                with contextlib.suppress(JobNotFound):  # ended, and deleted since
                    await ended(job.id)
        return await self.view() if undone else view

    async def result(self, timeout: Duration | None = None) -> dict[str, Any]:
        """The results of all steps, by name, as soon as it is completed; None of one that was not needed.

        Raises WorkflowFailed, JobNotFound, ResultTimeout, StoreError.
        """
        view = await self.wait(timeout)
        if view.status != "completed":
            raise WorkflowFailed(self.id, view.name, view.reason)
        return {name: None if job is None else job.result for name, job in view.steps.items()}


async def last_job(kernel: Kernel, workflow_id: str) -> JobView:
    """The one that ends the workflow: the newest, of one that was resumed. Raises JobNotFound."""
    found: JobView | None = None
    number = 0
    while True:
        # Those before it may be deleted by now.
        ids = [again(workflow_id, each) if each else workflow_id for each in range(number, number + _RESUMPTIONS)]
        there = [job for job in await kernel.jobs(ids) if job is not None and plan_of(job) is not None]
        if there:
            found = there[-1]
        if not there or there[-1].id != ids[-1]:
            break
        number += _RESUMPTIONS
    if found is None:
        raise JobNotFound(workflow_id)
    return found


class Planned(Struct, frozen=True):
    """A step as the job that ends the workflow has it: its job, what it waits for, the job that undoes it."""

    id: str
    after: dict[str, tuple[str, ...]]
    undo: str | None


class Plan(Struct, frozen=True):
    """The payload of the job that ends a workflow; the steps in the order in which they were added."""

    flow: str
    steps: dict[str, Planned]


def plan_of(job: JobView) -> Plan | None:
    """None of any other job, also of one that somebody enqueued under that name with a payload of his own."""
    if job.name != FINISH:
        return None
    try:
        plan = msgspec.convert(job.payload, Plan)
    except msgspec.ValidationError:
        return None
    added: set[str] = set()
    for name, step in plan.steps.items():
        if not added.issuperset(step.after):
            return None
        added.add(name)
    return plan


async def viewed(kernel: Kernel, workflow_id: str) -> WorkflowView:
    return await view_of(kernel, await last_job(kernel, workflow_id), workflow_id)


async def view_of(kernel: Kernel, finish: JobView, workflow_id: str) -> WorkflowView:
    """What the job that ends the workflow tells, and the jobs that it names. Raises JobNotFound."""
    plan = plan_of(finish)
    if plan is None:
        raise JobNotFound(workflow_id)
    steps = dict(zip(plan.steps, await kernel.jobs([each.id for each in plan.steps.values()]), strict=True))
    undo = {name: each.undo for name, each in plan.steps.items() if each.undo is not None}
    undoing = dict(zip(undo, await kernel.jobs(list(undo.values())), strict=True))
    return WorkflowView(
        id=workflow_id,
        name=plan.flow,
        status=_status(finish, steps, undoing),
        reason="" if finish.status in LIVE else finish.reason,
        created_at=finish.created_at,
        completed_at=finish.completed_at,
        steps=steps,
        undoing=undoing,
    )


def _status(
    finish: JobView, steps: Mapping[str, JobView | None], undoing: Mapping[str, JobView | None]
) -> WorkflowStatus:
    if finish.status in LIVE:
        return "running"
    if finish.status == "completed":
        return "completed"
    if any(job is not None and job.status in LIVE for job in undoing.values()):
        return "compensating"
    if any(_is_undone(job, steps[name]) for name, job in undoing.items()):
        return "compensated"
    return "failed" if finish.status == "dead" or _IS_DEAD in finish.reason else "cancelled"


def _is_undone(undo: JobView | None, step: JobView | None) -> bool:
    """Of an undoing that is deleted: whether there was something to undo."""
    if undo is None:
        return step is not None and step.status == "completed"
    return undo.status != "cancelled"


def failure(plan: Mapping[str, Mapping[str, Any]], steps: Mapping[str, JobView | None]) -> str:
    """What went wrong, of the first steps that did; empty if nothing. A step that was not needed did not fail."""
    found = [
        f"step {name} {problem}"
        for name, job in steps.items()
        if job is not None and (problem := _problem(job, plan[name]["after"], steps))
    ]
    rest = len(found) - _TOLD_MAX
    return "; ".join([*found[:_TOLD_MAX], *([f"and {rest} more"] if rest > 0 else [])])


def _problem(job: JobView, after: Mapping[str, Iterable[str]], steps: Mapping[str, JobView | None]) -> str:
    if job.status == "dead":
        return f"{_IS_DEAD}: {job.reason}"
    if job.status != "cancelled":
        return ""
    if job.reason != "dependency":
        return f"was cancelled: {job.reason}"
    if all((found := steps[name]) is not None and found.status in ends for name, ends in after.items()):
        return "was cancelled before a step in front of it was replayed"
    return ""


_IS_DEAD = "is dead"
_TOLD_MAX = 3
_RESUMPTIONS = 100
"""So many places are looked at in one call: retention deletes the first ones of a workflow that is resumed often."""
