"""From a request to a page and back: the addresses, their roles, and what becomes of errors."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import quote, unquote

from msgspec import Struct
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from psyqueue import PsyQueue
from psyqueue.dashboard import circuits, failures, job, jobs, overview, queues, schedules, workers, workflows
from psyqueue.dashboard.access import Access, Role
from psyqueue.dashboard.desk import Desk
from psyqueue.dashboard.guard import FORM_COOKIE, Forbidden, Guard, read_form, token_of
from psyqueue.dashboard.rendering import render
from psyqueue.dashboard.visit import Done, Page, Visit
from psyqueue.errors import ConfigError, InvalidOption, JobNotFound, PsyQueueError, Refused, ScheduleNotFound

log: logging.Logger = logging.getLogger("psyqueue.dashboard")

NOTE_COOKIE: Final = "psyqueue_note"
NOTE_S: Final = 20
NOTE_CHARS_MAX: Final = 500

Form: TypeAlias = Mapping[str, list[str]]


class Look(Struct, frozen=True):
    """A page. `role`: the least that sees it."""

    path: str
    show: Callable[[Desk, Visit], Awaitable[Page]]
    role: Role = "viewer"


class Act(Struct, frozen=True):
    """Something that is done: a form is sent to it. `role`: the least that may."""

    path: str
    role: Role
    do: Callable[[Desk, Visit, Form], Awaitable[Done]]


LOOKS: Final = (
    Look("/", overview.show),
    Look("/queue", queues.show),
    Look("/jobs", jobs.show),
    Look("/jobs/sure", jobs.ask, "operator"),
    Look("/job", job.show),
    Look("/failures", failures.show),
    Look("/workers", workers.show),
    Look("/schedules", schedules.show),
    Look("/workflows", workflows.show),
    Look("/workflow", workflows.show_one),
    Look("/circuits", circuits.show),
)
ACTS: Final = (
    Act("/queue/pause", "operator", queues.pause),
    Act("/queue/resume", "operator", queues.resume),
    Act("/queue/limits", "admin", queues.limits),
    Act("/jobs/retry", "operator", jobs.retry),
    Act("/jobs/cancel", "operator", jobs.cancel),
    Act("/jobs/delete", "admin", jobs.delete),
    Act("/workers/drain", "operator", workers.drain),
    Act("/workers/stop", "admin", workers.stop),
    Act("/schedules/pause", "operator", schedules.pause),
    Act("/schedules/resume", "operator", schedules.resume),
    Act("/schedules/run", "operator", schedules.run),
    Act("/workflow/cancel", "operator", workflows.cancel),
    Act("/workflow/resume", "operator", workflows.resume),
    Act("/circuits/open", "operator", circuits.open_),
    Act("/circuits/close", "operator", circuits.close),
)


def make_site(queue: PsyQueue, access: Access, payloads: Role) -> ASGIApp:
    """All of it, guarded."""
    desk = Desk(queue)
    routes: list[BaseRoute] = [
        *(Route(each.path, partial(_look, desk, payloads, each), methods=["GET"]) for each in LOOKS),
        *(Route(each.path, partial(_act, desk, payloads, each), methods=["POST"]) for each in ACTS),
        Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: partial(_problem, payloads)})
    return Guard(app, access)


async def _look(desk: Desk, payloads: Role, look: Look, request: Request) -> Response:
    visit = Visit(request, payloads)
    if not visit.may(look.role):
        return _wrong(visit, HTTPStatus.FORBIDDEN, f"This takes the role {look.role}; yours is {visit.visitor.role}.")
    try:
        desk.require_open()
        return _shown(visit, await look.show(desk, visit), desk)
    except PsyQueueError as exc:
        return _wrong(visit, _status_of(exc), exc.message)


async def _act(desk: Desk, payloads: Role, act: Act, request: Request) -> Response:
    visit = Visit(request, payloads)
    if not visit.may(act.role):
        return _wrong(visit, HTTPStatus.FORBIDDEN, f"This takes the role {act.role}; yours is {visit.visitor.role}.")
    try:
        desk.require_open()
        form = await read_form(request)
        done = await act.do(desk, visit, form)
    except Forbidden as exc:
        return _wrong(visit, HTTPStatus.FORBIDDEN, str(exc))
    except PsyQueueError as exc:
        return _wrong(visit, _status_of(exc), exc.message)
    about = {"act": act.path, "visitor": visit.visitor.name, "role": visit.visitor.role, "done": done.text}
    log.info("done by hand", extra=about)
    answer = RedirectResponse(done.back, HTTPStatus.SEE_OTHER)
    answer.set_cookie(
        NOTE_COOKIE, quote(done.text[:NOTE_CHARS_MAX]), NOTE_S, path=visit.url("/"), httponly=True, samesite="strict"
    )
    return answer


def _shown(visit: Visit, page: Page, desk: Desk | None, status: HTTPStatus = HTTPStatus.OK) -> Response:
    request = visit.request
    token, is_new = token_of(request)
    note = unquote(request.cookies.get(NOTE_COOKIE, ""))
    is_again = "x-again" in request.headers  # the page looks again by itself: what is told once stays where it is
    text = render(visit, page, token=token, note="" if is_again else note, desk=desk)
    answer = HTMLResponse(text, status)
    path, is_secure = visit.url("/"), request.url.scheme == "https"
    if is_new:
        answer.set_cookie(FORM_COOKIE, token, path=path, httponly=True, samesite="strict", secure=is_secure)
    if note and not is_again:
        answer.delete_cookie(NOTE_COOKIE, path=path, httponly=True, samesite="strict")
    return answer


def _wrong(visit: Visit, status: HTTPStatus, text: str) -> Response:
    return _shown(visit, Page("wrong.html", {"status": status, "text": text}), None, status)


def _problem(payloads: Role, request: Request, error: Exception) -> Response:
    """What the router has to say: no such address, no such method."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    return _wrong(Visit(request, payloads), status, "There is no such page." if status == 404 else status.phrase)


def _status_of(error: PsyQueueError) -> HTTPStatus:
    match error:
        case JobNotFound() | ScheduleNotFound():
            return HTTPStatus.NOT_FOUND
        case InvalidOption():
            return HTTPStatus.BAD_REQUEST
        case Refused():
            return HTTPStatus.CONFLICT
        case ConfigError():
            return HTTPStatus.INTERNAL_SERVER_ERROR
        case _:
            return HTTPStatus.SERVICE_UNAVAILABLE
