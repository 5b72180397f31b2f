"""Dead jobs by what killed them: a thousand of one kind are one line."""

from __future__ import annotations

from typing import Final

from starlette.exceptions import HTTPException

from psyqueue.dashboard.desk import Desk
from psyqueue.dashboard.visit import Page, Visit
from psyqueue.operating.failures import failure_groups
from psyqueue.operating.query import check_terms

JOBS_MAX: Final = 10_000
"""So many dead jobs are looked through for one page."""
GROUPS_SHOWN: Final = 100


async def show(desk: Desk, visit: Visit) -> Page:
    """`where` narrows which dead jobs are looked at. It is made of what handlers said, which not every role sees."""
    if visit.hides:
        raise HTTPException(403)
    where = visit.asked("where")
    found = await failure_groups(desk.queue, check_terms(where), jobs_max=JOBS_MAX)
    return Page(
        "failures.html",
        {"where": where, "groups": found.groups[:GROUPS_SHOWN], "count": len(found.groups), "found": found},
    )
