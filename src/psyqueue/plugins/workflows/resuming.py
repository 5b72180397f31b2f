"""Going on after a failure: dead steps run again, and new jobs take the places of those that were cancelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from psyqueue import codec
from psyqueue.backend import Change, Dependency, Filter, NewJob
from psyqueue.errors import InvalidState
from psyqueue.kernel.extension import JobView, Kernel
from psyqueue.plugins.workflows.flow import FINISH, again, number_of, waited_for
from psyqueue.plugins.workflows.run import WorkflowView


async def resumed(kernel: Kernel, finish: JobView, view: WorkflowView) -> None:
    """First the replay, then the places: whoever is interrupted between the two does it again.

    `finish` is the job that ended it, as of which `view` is: two who saw the same make the same jobs under the same
    ids. Raises InvalidState where a step was deleted.
    """
    gone = [name for name, job in view.steps.items() if job is None]
    if gone:
        text = f"step {gone[0]} of workflow {view.id!r} is no longer kept, so that nothing can wait for it"
        raise InvalidState(f"{text}. Enqueue it anew; q.limits(queue, retain_ended=...) keeps steps for longer")
    replayed, replaced = _parted(finish.payload["steps"], view.steps)
    number = number_of(finish.id) + 1
    ids = {each: again(each, number) for each in (*replaced, finish.id)}
    stored = [each for each in await kernel.store.get(list(ids)) if each is not None]
    if len(stored) < len(ids):
        raise InvalidState(f"jobs of workflow {view.id!r} were deleted just now. Enqueue it anew")
    if replayed:
        where, replay = Filter(ids=tuple(replayed), statuses=("dead",)), Change(kind="replay")
        amended = await kernel.operate(lambda op: kernel.store.amend(op, where, replay, None, len(replayed)))
        for job in (replayed[each] for each in amended.changed):
            kernel.events.publish("job:replayed", {"job_id": job.id, "queue": job.queue, "name": job.name})
    await kernel.write([_in_place_of(each.job, ids) for each in stored])


def _parted(
    plan: Mapping[str, Mapping[str, Any]], steps: Mapping[str, JobView | None]
) -> tuple[dict[str, JobView], dict[str, JobView]]:
    """What is replayed and what is replaced, by id: also a dead step that has to wait for one of them once more."""
    replayed: dict[str, JobView] = {}
    replaced: dict[str, JobView] = {}
    moved: set[str] = set()
    for name, job in steps.items():
        if job is not None and job.status in ("dead", "cancelled"):
            waits = job.status == "cancelled" or not moved.isdisjoint(plan[name]["after"])
            (replaced if waits else replayed)[job.id] = job
            moved.add(name)
    return replayed, replaced


def _in_place_of(job: NewJob, ids: Mapping[str, str]) -> NewJob:
    """A job like `job`, which waits for the new ones where others were, and starts no earlier than it would have."""
    cold: dict[str, Any] = codec.decode(job.cold)
    if after := waited_for(job.id, cold.get("meta", {})):
        cold["meta"]["workflow"]["after"] = {name: ids.get(each, each) for name, each in after.items()}
    payload = job.payload
    if job.name == FINISH:
        told = codec.decode(payload)
        for each in told["steps"].values():
            each["id"] = ids.get(each["id"], each["id"])
        payload = codec.encode(told)
    return replace(
        job,
        id=ids[job.id],
        payload=payload,
        cold=codec.encode_trusted(cold),
        needs=tuple(Dependency(ids.get(need.job_id, need.job_id), need.on) for need in job.needs),
        idempotency=None,  # it names the first one, and would be led to that
    )
