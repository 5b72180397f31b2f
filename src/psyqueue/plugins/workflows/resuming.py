"""Going on after a failure: dead steps run again, and new jobs take the places of those that were cancelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from psyqueue import codec
from psyqueue.backend import Change, Dependency, Filter, NewJob
from psyqueue.errors import InvalidState
from psyqueue.kernel.extension import Kernel
from psyqueue.plugins.workflows.flow import again
from psyqueue.plugins.workflows.run import WorkflowView, latest


async def resumed(kernel: Kernel, view: WorkflowView) -> None:
    """First the replay, then the places: whoever is interrupted between the two does it again.

    Two who do it at once make the same jobs under the same ids. Raises InvalidState where a step was deleted.
    """
    gone = [name for name, job in view.steps.items() if job is None]
    if gone:
        text = f"step {gone[0]} of workflow {view.id!r} is no longer kept, so that nothing can wait for it"
        raise InvalidState(f"{text}. Enqueue it anew; q.limits(queue, retain_ended=...) keeps steps for longer")
    dead = tuple(job.id for job in view.steps.values() if job is not None and job.status == "dead")
    if dead:
        where = Filter(ids=dead, statuses=("dead",))
        await kernel.operate(lambda op: kernel.store.amend(op, where, Change(kind="replay"), None, len(dead)))
    finish = (await latest(kernel, [view.id]))[view.id]
    assert finish is not None
    cancelled = [job.id for job in view.steps.values() if job is not None and job.status == "cancelled"]
    ids = {each: again(each, _number(each) + 1) for each in (*cancelled, finish.id)}
    stored = [each for each in await kernel.store.get(list(ids)) if each is not None]
    jobs = [_in_place_of(each.job, ids) for each in stored]
    await kernel.operate(lambda op: kernel.store.enqueue(op, jobs))


def _number(job_id: str) -> int:
    return int(job_id.rpartition("~")[2]) if "~" in job_id else 0


def _in_place_of(job: NewJob, ids: Mapping[str, str]) -> NewJob:
    """A job like `job`, which waits for the new ones where others were; due at once, as its turn was."""
    cold: dict[str, Any] = codec.decode(job.cold)
    about = cold.get("meta", {}).get("workflow")
    if about:
        about["after"] = {name: ids.get(each, each) for name, each in about["after"].items()}
    return replace(
        job,
        id=ids[job.id],
        cold=codec.encode_trusted(cold),
        needs=tuple(Dependency(ids.get(need.job_id, need.job_id), need.on) for need in job.needs),
        delay_ms=0,
        run_at_ms=None,
        idempotency=None,  # it names the first one, and would be led to that
    )
