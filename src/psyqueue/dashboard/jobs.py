"""Jobs that fit a filter, and what is done to some or all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from psyqueue import JobView
from psyqueue.clock import SystemClock
from psyqueue.dashboard.desk import Desk
from psyqueue.dashboard.forms import one
from psyqueue.dashboard.visit import Done, Page, Visit
from psyqueue.errors import InvalidOption, InvalidState
from psyqueue.job import STATUSES, Status
from psyqueue.operating.deeds import CANCEL, DELETE, RETRY, Deed
from psyqueue.operating.query import FIELDS, Term, Value, check_terms
from psyqueue.operating.selection import Selection
from psyqueue.words import counted

JOBS_SHOWN: Final = 50
STEPS_MAX: Final = 20
"""Calls of the store for one page: 10,000 jobs are looked through, then the visitor decides whether to go on."""
SEARCH_S_MAX: Final = 10
COUNT_S_MAX: Final = 15
CHANGE_MS_MAX: Final = 15_000
"""A browser does not wait longer than this; the visitor goes on with the rest."""
DEEDS: Final = {"retry": RETRY, "cancel": CANCEL, "delete": DELETE}
_HIDDEN: Final = ("text", "error", "reason", "unique", "order")
"""Fields that would tell, by what is found, what the visitor may not see; beside them `meta.KEY`."""


async def show(desk: Desk, visit: Visit) -> Page:
    """A page of the jobs that fit `where`, in `status` if that is given."""
    where, status = visit.asked("where"), visit.asked("status")
    found: Sequence[JobView] = ()
    cursor, problem = None, ""
    try:
        selection = await Selection.open(desk.queue, _terms(visit, where), _statuses(status))
        async with asyncio.timeout(SEARCH_S_MAX):
            found, cursor = await selection.page(JOBS_SHOWN, visit.asked("cursor") or None, steps_max=STEPS_MAX)
    except InvalidOption as exc:
        problem = exc.message  # told above the filter, so that it can be mended there
    except TimeoutError:
        problem = f"This took more than {SEARCH_S_MAX} s: narrow it by queue: and status:, which have an index."
    return Page(
        "jobs.html",
        {
            "problem": problem,
            "is_full": len(found) >= JOBS_SHOWN,
            "where": where,
            "status": status,
            "statuses": STATUSES,
            "fields": (*FIELDS, "meta.KEY"),
            "found": found,
            "last_errors": {view.id: last_error(view) for view in found},
            "cursor": cursor,
            "deeds": {key: deed for key, deed in DEEDS.items() if not status or status in deed.statuses},
        },
        HTTPStatus.BAD_REQUEST if problem else HTTPStatus.OK,
    )


async def ask(desk: Desk, visit: Visit) -> Page:
    """Whether all that fit are meant: how many these are has to be typed."""
    where, status, deed = visit.asked("where"), visit.asked("status"), _deed(visit.asked("deed"))
    count = await _count(await Selection.open(desk.queue, _terms(visit, where), _in_both(status, deed)), where)
    question = deed.question.format(jobs=counted(count, "job"))
    key = visit.asked("deed")
    shown = {"where": where, "status": status, "deed": key, "count": count, "question": question}
    return Page("sure.html", {**shown, "back": visit.inside("/jobs", where=where, status=status)})


async def retry(desk: Desk, visit: Visit, form: Mapping[str, list[str]]) -> Done:
    return await _change(desk, visit, form, RETRY)


async def cancel(desk: Desk, visit: Visit, form: Mapping[str, list[str]]) -> Done:
    return await _change(desk, visit, form, CANCEL)


async def delete(desk: Desk, visit: Visit, form: Mapping[str, list[str]]) -> Done:
    return await _change(desk, visit, form, DELETE)


def last_error(view: JobView) -> str:
    """As a log has it; empty where no run failed."""
    if not view.errors:
        return ""
    error = view.errors[-1]
    return f"{error.get('type', '')}: {error.get('message', '')}"


async def _change(desk: Desk, visit: Visit, form: Mapping[str, list[str]], deed: Deed) -> Done:
    """The jobs whose `id` was chosen, or all that fit `where`, after their number was typed. Raises InvalidOption."""
    if ids := form.get("id"):
        terms: Sequence[Term] = (Term("id", tuple(Value(each, is_literal=True) for each in ids)),)
        statuses = deed.statuses
    elif "where" in form:
        terms, statuses = _terms(visit, one(form, "where")), _in_both(one(form, "status"), deed)
    else:
        raise InvalidOption("id", "", "no job was chosen", "Tick some, or take all that fit")
    selection = await Selection.open(desk.queue, tuple(terms), statuses)
    if not ids:
        _require_count(form, await _count(selection, one(form, "where")))
    clock = SystemClock()
    until_ms = clock.mono_ms() + CHANGE_MS_MAX
    changed = await selection.change(deed.change, is_over=lambda: clock.mono_ms() >= until_ms)
    told = f"{counted(changed.count, 'job')} {'was' if changed.count == 1 else 'were'} {deed.done}"
    left = len(set(ids)) - changed.count if ids else changed.skipped
    told += f"; {left} could not be" if left else ""
    return Done(
        told + ("." if changed.is_all else "; then the time was over: do it again for the rest."), visit.back_to(form)
    )


async def _count(selection: Selection, where: str) -> int:
    """Raises InvalidState where that takes too long."""
    try:
        async with asyncio.timeout(COUNT_S_MAX):
            return await selection.count()
    except TimeoutError:
        raise InvalidState(
            f"there are too many jobs to count those that fit {where!r}: narrow it by queue: and status:, or use the "
            "command line, which takes its time: psyqueue jobs"
        ) from None


def _require_count(form: Mapping[str, list[str]], count: int) -> None:
    """That the number that was typed is how many fit now: some may have come or gone since the page was shown."""
    typed = one(form, "typed").replace(",", "").strip()
    if typed != str(count):
        raise InvalidOption("typed", typed, f"is not {count:,}, the number of jobs that fit now", "Nothing was done")


def _terms(visit: Visit, where: str) -> tuple[Term, ...]:
    """Raises InvalidOption, also for what would find out what the visitor may not see."""
    terms = check_terms(where)
    for term in terms if visit.hides else ():
        if term.field in _HIDDEN or term.field.startswith("meta."):
            raise term.refuse("it looks into what your role does not see")
    return terms


def _statuses(status: str) -> tuple[Status, ...]:
    """The one that was chosen, or all. Raises InvalidOption."""
    if not status:
        return STATUSES
    found: tuple[Status, ...] = tuple(each for each in STATUSES if each == status)
    if not found:
        raise InvalidOption("status", status, "is no status", f"There are {', '.join(STATUSES)}")
    return found


def _in_both(status: str, deed: Deed) -> tuple[Status, ...]:
    return tuple(each for each in _statuses(status) if each in deed.statuses)


def _deed(key: str) -> Deed:
    if key not in DEEDS:
        raise InvalidOption("deed", key, "is nothing that can be done", f"There are {', '.join(DEEDS)}")
    return DEEDS[key]
