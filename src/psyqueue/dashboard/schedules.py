"""Work that repeats: when it is next, and whether it is paused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.backend.compose import every_page
from psyqueue.dashboard.desk import Desk
from psyqueue.dashboard.forms import one
from psyqueue.dashboard.visit import Done, Page, Visit
from psyqueue.errors import InvalidState
from psyqueue.plugins.scheduler.definition import decoded, view_of

if TYPE_CHECKING:
    from psyqueue.plugins import Schedules


async def show(desk: Desk, visit: Visit) -> Page:
    """All that are in the store, by id; acted on where the queue has the plugin."""
    found = await every_page(lambda cursor: desk.store.list_schedules(cursor, ITEMS_MAX))
    read = [(each, decoded(each)) for each in found]
    views = [view_of(schedule, definition) for schedule, definition in read if definition is not None]
    return Page("schedules.html", {"views": views, "can_act": desk.schedules is not None})


async def pause(desk: Desk, visit: Visit, form: Mapping[str, list[str]]) -> Done:
    view = await _plugin(desk).pause(one(form, "id"))
    return Done(f"Schedule {view.id} is paused: it makes nothing more.", visit.back_to(form))


async def resume(desk: Desk, visit: Visit, form: Mapping[str, list[str]]) -> Done:
    view = await _plugin(desk).resume(one(form, "id"))
    return Done(f"Schedule {view.id} goes on with its next instant.", visit.back_to(form))


async def run(desk: Desk, visit: Visit, form: Mapping[str, list[str]]) -> Done:
    job_id = await _plugin(desk).run(one(form, "id"))
    return Done(f"Job {job_id} was made of schedule {one(form, 'id')}.", visit.back_to(form))


def _plugin(desk: Desk) -> Schedules:
    """Raises InvalidState."""
    if desk.schedules is None:
        raise InvalidState("this queue has no schedules: q.use(Schedules())")
    return desk.schedules
