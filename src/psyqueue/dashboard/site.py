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
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from psyqueue import PsyQueue
from psyqueue.dashboard import circuits, failures, job, jobs, overview, queues, schedules, workers, workflows
from psyqueue.dashboard.access import Access, Role
from psyqueue.dashboard.desk import Desk
from psyqueue.dashboard.guard import AGAIN, FORM_COOKIE, Forbidden, Guard, read_form, token_of
from psyqueue.dashboard.rendering import render
from psyqueue.dashboard.visit import Done, Page, Visit
from psyqueue.errors import ConfigError, InvalidOption, JobNotFound, PsyQueueError, Refused, ScheduleNotFound

log: logging.Logger = logging.getLogger("psyqueue.dashboard")

NOTE_COOKIE: Final = "psyqueue_note"
NOTE_S: Final = 20
NOTE_CHARS_MAX: Final = 500
LOGGED_CHARS_MAX: Final = 2_000

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
STATIC: Final = {
    "dashboard.css": "text/css",
    "dashboard.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
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


def make_site(queue: PsyQueue, access: Access, payloads: Role, title: str) -> ASGIApp:
    """All of it, guarded."""
    desk = Desk(queue, title)
    routes: list[BaseRoute] = [
        *(Route(each.path, partial(_look, desk, payloads, each), methods=["GET"]) for each in LOOKS),
        *(Route(each.path, partial(_act, desk, payloads, each), methods=["POST"]) for each in ACTS),
        *(Route(f"/static/{name}", partial(_static, name, kind)) for name, kind in STATIC.items()),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: partial(_problem, desk, payloads)})
    app.router.redirect_slashes = False  # behind a proxy it would lead to http
    return Guard(app, access)


async def _static(name: str, kind: str, _: Request) -> Response:
    """Its address has the release in it."""
    content = (Path(__file__).parent / "static" / name).read_bytes()
    return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=86400"})


async def _look(desk: Desk, payloads: Role, look: Look, request: Request) -> Response:
    visit = Visit(request, payloads)
    try:
        _require(visit, look.role)
        desk.require_open()
        return _shown(desk, visit, await look.show(desk, visit))
    except Exception as exc:  # noqa: BLE001 - whatever it is, also a job that no page can be made of, it is told
        return _failed(desk, visit, exc)


async def _act(desk: Desk, payloads: Role, act: Act, request: Request) -> Response:
    visit = Visit(request, payloads)
    form: Form = {}
    try:
        _require(visit, act.role)
        desk.require_open()
        form = await read_form(request)
        done = await act.do(desk, visit, form)
    except Exception as exc:  # noqa: BLE001 - as above
        _note(visit, act, form, f"failed: {type(exc).__name__}")
        return _failed(desk, visit, exc)
    desk.forget()
    _note(visit, act, form, done.text)
    answer = RedirectResponse(done.back, HTTPStatus.SEE_OTHER)
    answer.set_cookie(
        NOTE_COOKIE, quote(done.text[:NOTE_CHARS_MAX]), NOTE_S, path=visit.url("/"), httponly=True, samesite="strict"
    )
    return answer


def _require(visit: Visit, role: Role) -> None:
    """Raises HTTPException."""
    if not visit.may(role):
        raise HTTPException(403, f"This takes the role {role}; yours is {visit.visitor.role}.")


def _note(visit: Visit, act: Act, form: Form, done: str) -> None:
    """Who did what to which: the fields of the form, as far as a line of a log should hold them."""
    to = {name: values if len(values) > 1 else values[0] for name, values in form.items() if name != "back"}
    who = {"act": act.path, "visitor": visit.visitor.name, "role": visit.visitor.role}
    log.info("done by hand", extra={**who, "to": str(to)[:LOGGED_CHARS_MAX], "done": done})


def _failed(desk: Desk, visit: Visit, error: Exception) -> Response:
    match error:
        case HTTPException():
            return _wrong(desk, visit, HTTPStatus(error.status_code), error.detail)
        case Forbidden():
            return _wrong(desk, visit, HTTPStatus.FORBIDDEN, str(error))
        case PsyQueueError():
            return _wrong(desk, visit, _status_of(error), error.message)
    log.error("a page of the dashboard failed", exc_info=error)
    text = f"This failed with {type(error).__name__}. The log of the server says where."
    return _wrong(desk, visit, HTTPStatus.INTERNAL_SERVER_ERROR, text)


def _shown(desk: Desk, visit: Visit, page: Page) -> Response:
    request = visit.request
    token, is_new = token_of(request)
    note = unquote(request.cookies.get(NOTE_COOKIE, ""))
    is_again = AGAIN in request.headers  # what is told once stays where it is
    text = render(desk, visit, page, token=token, note="" if is_again else note)
    answer = HTMLResponse(text, page.status)
    path, is_secure = visit.url("/"), request.url.scheme == "https"
    if is_new:
        # Lax: else who comes by a link of another site would get a new one, and the forms of other tabs were too old.
        answer.set_cookie(FORM_COOKIE, token, path=path, httponly=True, samesite="lax", secure=is_secure)
    if note and not is_again:
        answer.delete_cookie(NOTE_COOKIE, path=path, httponly=True, samesite="strict")
    return answer


def _wrong(desk: Desk, visit: Visit, status: HTTPStatus, text: str) -> Response:
    return _shown(desk, visit, Page("wrong.html", {"status": status, "text": text}, status))


def _problem(desk: Desk, payloads: Role, request: Request, error: Exception) -> Response:
    """What the router has to say: no such address, no such method."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    text = "There is no such page." if status == HTTPStatus.NOT_FOUND else status.phrase
    answer = _wrong(desk, Visit(request, payloads), status, text)
    answer.headers.update(error.headers or {})
    return answer


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
