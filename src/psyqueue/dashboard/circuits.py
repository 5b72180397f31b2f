"""What runs wait for while it is down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from psyqueue.clock import to_datetime, to_ms
from psyqueue.dashboard.desk import Desk
from psyqueue.dashboard.forms import one
from psyqueue.dashboard.visit import Done, Page, Visit
from psyqueue.errors import InvalidState
from psyqueue.plugins.circuit_breaker.ledger import Ledger, all_circuits

OPEN_FOR: Final = "5m"


async def show(desk: Desk, visit: Visit) -> Page:
    """All that runs came to."""
    now = to_datetime((await desk.store.info()).now_ms)
    return Page("circuits.html", {"views": await all_circuits(desk.store), "now": now, "open_for": OPEN_FOR})


async def open_(desk: Desk, visit: Visit, form: Mapping[str, list[str]]) -> Done:
    lasts_ms = to_ms("for", one(form, "for"), minimum_ms=1)
    await (await _ledger(desk, form)).open(lasts_ms)
    return Done(f"Circuit {one(form, 'name')} is open for {one(form, 'for')}: runs wait.", visit.back_to(form))


async def close(desk: Desk, visit: Visit, form: Mapping[str, list[str]]) -> Done:
    await (await _ledger(desk, form)).close()
    return Done(f"Circuit {one(form, 'name')} is closed: runs go through.", visit.back_to(form))


async def _ledger(desk: Desk, form: Mapping[str, list[str]]) -> Ledger:
    """Raises InvalidState for a circuit that no run came to: its name may be written wrongly."""
    name = one(form, "name")
    if name not in {view.name for view in await all_circuits(desk.store)}:
        raise InvalidState(f"no run came to a circuit {name!r} yet")
    return Ledger(desk.kernel, name)
