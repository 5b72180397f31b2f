"""The workers that run, and telling them to end."""

from __future__ import annotations

from collections.abc import Mapping

from psyqueue.backend.compose import all_sessions
from psyqueue.dashboard.desk import Desk
from psyqueue.dashboard.forms import one
from psyqueue.dashboard.visit import Done, Page, Visit
from psyqueue.errors import InvalidState
from psyqueue.kernel.orders import Order, give_order
from psyqueue.operating.workers import worker_lines


async def show(desk: Desk, visit: Visit) -> Page:
    """By name."""
    store = desk.store
    lines = await worker_lines(store, await all_sessions(store))
    return Page("workers.html", {"lines": sorted(lines, key=lambda line: (line.worker, line.session_id))})


async def drain(desk: Desk, visit: Visit, form: Mapping[str, list[str]]) -> Done:
    name = await _order(desk, form, Order("drain"))
    return Done(f"Worker {name} was told to take no more jobs, and to end after those that run.", visit.back_to(form))


async def stop(desk: Desk, visit: Visit, form: Mapping[str, list[str]]) -> Done:
    name = await _order(desk, form, Order("stop"))
    return Done(
        f"Worker {name} was told to end; what runs gets its grace, then it is handed back.", visit.back_to(form)
    )


async def _order(desk: Desk, form: Mapping[str, list[str]], order: Order) -> str:
    """The name of the worker. Raises InvalidState for one that has ended."""
    session_id = one(form, "session_id")
    for info in await all_sessions(desk.store):
        if info.session.id == session_id:
            await give_order(desk.queue._core, (session_id,), order)  # noqa: SLF001 - operators alone do this
            return info.session.worker
    raise InvalidState("this worker has ended meanwhile")
