"""Work in several steps: the workflows that there are, and one with its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from psyqueue.dashboard.desk import Desk
from psyqueue.dashboard.forms import one
from psyqueue.dashboard.jobs import STEPS_MAX
from psyqueue.dashboard.visit import Done, Page, Visit
from psyqueue.errors import InvalidState
from psyqueue.kernel.options import read_id
from psyqueue.operating.query import Term, Value
from psyqueue.operating.selection import Selection
from psyqueue.plugins.workflows.flow import FINISH, workflow_of
from psyqueue.plugins.workflows.run import WorkflowView, last_job, plan_of, view_of

if TYPE_CHECKING:
    from psyqueue.plugins import Workflows

SHOWN_MAX: Final = 50
BOX_WIDTH: Final = 150
BOX_HEIGHT: Final = 36
COLUMN: Final = 200
ROW: Final = 52
NAME_CHARS_MAX: Final = 18


class Box(Struct, frozen=True):
    """A step in the picture; `x` and `y` of its upper left corner."""

    name: str
    label: str
    status: str
    job_id: str
    x: int
    y: int


class Line(Struct, frozen=True):
    """From the right of one box to the left of another."""

    x1: int
    y1: int
    x2: int
    y2: int


class Picture(Struct, frozen=True):
    """Steps from left to right, each in the column behind all that it waits for."""

    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    width: int
    height: int
    box_width: int = BOX_WIDTH
    box_height: int = BOX_HEIGHT


async def show(desk: Desk, visit: Visit) -> Page:
    """The jobs that end workflows, a page at a time, by queue and status: each stands for one."""
    selection = await Selection.open(desk.queue, (Term("name", (Value(FINISH, is_literal=True),)),))
    jobs, cursor = await selection.page(SHOWN_MAX, visit.asked("cursor") or None, steps_max=STEPS_MAX)
    found = [(workflow_of(job), plan.flow, job) for job in jobs if (plan := plan_of(job)) is not None]
    return Page("workflows.html", {"found": found, "cursor": cursor, "is_full": len(jobs) >= SHOWN_MAX})


async def show_one(desk: Desk, visit: Visit) -> Page:
    """`id` is the workflow's. Raises JobNotFound, InvalidOption."""
    workflow_id = read_id(visit.asked("id"))
    finish = await last_job(desk.kernel, workflow_id)
    view = await view_of(desk.kernel, finish, workflow_id)
    plan = plan_of(finish)
    assert plan is not None, finish.id
    after = {name: tuple(each.after) for name, each in plan.steps.items()}
    return Page(
        "workflow.html",
        {
            "view": view,
            "finish_id": finish.id,
            "picture": picture(view, after),
            "can_act": desk.workflows is not None,
            "can_resume": view.status in ("failed", "cancelled") and not view.undoing,
        },
    )


async def cancel(desk: Desk, visit: Visit, form: Mapping[str, list[str]]) -> Done:
    view = await _plugin(desk).cancel(read_id(one(form, "id")))
    return Done(f"Workflow {view.id} is {view.status}.", visit.back_to(form))


async def resume(desk: Desk, visit: Visit, form: Mapping[str, list[str]]) -> Done:
    view = await _plugin(desk).resume(read_id(one(form, "id")))
    return Done(f"Workflow {view.id} is {view.status}.", visit.back_to(form))


def picture(view: WorkflowView, after: Mapping[str, tuple[str, ...]]) -> Picture:
    """`after`: what each step waits for, itself behind those; the order in which steps were added."""
    column: dict[str, int] = {}
    places: dict[str, tuple[int, int]] = {}
    filled: dict[int, int] = {}
    for name, before in after.items():
        column[name] = at = 1 + max((column[each] for each in before), default=-1)
        places[name] = (at * COLUMN, filled.get(at, 0) * ROW)
        filled[at] = filled.get(at, 0) + 1
    lines = [
        Line(places[each][0] + BOX_WIDTH, places[each][1] + BOX_HEIGHT // 2, x, y + BOX_HEIGHT // 2)
        for name, (x, y) in places.items()
        for each in after[name]
    ]
    width = max(filled, default=0) * COLUMN + BOX_WIDTH
    height = max(filled.values(), default=1) * ROW
    return Picture(tuple(_box(view, name, *place) for name, place in places.items()), tuple(lines), width, height)


def _box(view: WorkflowView, name: str, x: int, y: int) -> Box:
    job = view.steps[name]
    label = name if len(name) <= NAME_CHARS_MAX else f"{name[: NAME_CHARS_MAX - 1]}…"
    return Box(name, label, "gone" if job is None else job.status, "" if job is None else job.id, x, y)


def _plugin(desk: Desk) -> Workflows:
    """Raises InvalidState."""
    if desk.workflows is None:
        raise InvalidState("this queue has no workflows: q.use(Workflows())")
    return desk.workflows
