"""Dead jobs by what killed them: a thousand of one kind are one line."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.exceptions import HTTPException

from psyqueue.dashboard.desk import Desk
from psyqueue.dashboard.jobs import SEARCH_S_MAX
from psyqueue.dashboard.visit import Page, Visit
from psyqueue.errors import InvalidState
from psyqueue.operating.failures import failure_groups
from psyqueue.operating.query import check_terms

JOBS_MAX: Final = 10_000
"""So many dead jobs are looked through for one page."""
GROUPS_SHOWN: Final = 100


async def show(desk: Desk, visit: Visit) -> Page:
    """`where` narrows which dead jobs are looked at. It is made of what handlers said, which not every role sees."""
    if visit.hides:
        raise HTTPException(403, "Your role does not see what handlers said, of which this page is made.")
    where = visit.asked("where")
    try:
        async with asyncio.timeout(SEARCH_S_MAX):
            found = await failure_groups(desk.queue, check_terms(where), jobs_max=JOBS_MAX)
    except TimeoutError:
        raise InvalidState(f"this took more than {SEARCH_S_MAX} s: narrow it by queue: and name:") from None
    return Page(
        "failures.html",
        {"where": where, "groups": found.groups[:GROUPS_SHOWN], "count": len(found.groups), "found": found},
    )
