"""What stands before every page: who comes in, what a browser may do with the answer, and where a change comes from."""

from __future__ import annotations

import hashlib
import hmac
import inspect
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response

from psyqueue.clock import SystemClock
from psyqueue.dashboard.access import Access, Passwords, Visitor
from psyqueue.ids import new_token

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log: logging.Logger = logging.getLogger("psyqueue.dashboard")

FORM_BYTES_MAX: Final = 65_536
FIELDS_MAX: Final = 1_000
FORM_COOKIE: Final = "psyqueue_form"
FORM_FIELD: Final = "form_token"
VISITOR: Final = "psyqueue.visitor"
"""The key of the scope under which a page finds who looks at it."""
AGAIN: Final = "x-again"
"""A header of what a page asks for by itself."""
WRONG_MS: Final = 1_000
WRONG_MAX: Final = 20
"""Of wrong passwords the first waits so long for its answer, one that comes meanwhile longer; so many may wait."""
RIGHT_MAX: Final = 100
ROOT: Final = "psyqueue.root"
"""The key of the scope for the path under which the dashboard is mounted."""

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers call the origin of our own forms null
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


_NOT_FROM_ELSEWHERE: Final = PlainTextResponse("Not from another site.", 403)


class Guard:
    """ASGI middleware around all pages, the style sheet included: nothing is answered to who may not come in."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access
        self._clock = SystemClock()
        self._wrong = 0
        self._right: deque[bytes] = deque(maxlen=RIGHT_MAX)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = HTTPConnection(scope)
        found = _NOT_FROM_ELSEWHERE if _is_part_of_another(request) else await self._let_in(request)
        if isinstance(found, Response):
            await found(scope, receive, _with_headers(send))
        else:
            inside = {**scope, VISITOR: found, ROOT: scope.get("root_path", "").rstrip("/")}
            await self._app(inside, receive, _with_headers(send))

    async def _let_in(self, request: HTTPConnection) -> Visitor | Response:
        """Who it is, or the answer to somebody who may not come in; also where `access` does not do as it should."""
        if isinstance(self._access, Passwords):
            return await self._with_password(self._access, request)
        try:
            found: Any = self._access(request)
            visitor: object = await found if inspect.isawaitable(found) else found
        except Exception:
            log.exception("access= of the dashboard failed")
            return PlainTextResponse("Who you are could not be found out. The log of the server says why.", 500)
        if visitor is None:
            return PlainTextResponse("You may not see this dashboard.", 403)
        if not isinstance(visitor, Visitor):
            log.error("access= of the dashboard answered no Visitor", extra={"type": type(visitor).__name__})
            return PlainTextResponse("Who you are could not be found out. The log of the server says why.", 500)
        return visitor

    async def _with_password(self, passwords: Passwords, request: HTTPConnection) -> Visitor | Response:
        """While many guess, only those come in who did before: the others are not even looked at."""
        digest = hashlib.sha256(request.headers.get("authorization", "").encode()).digest()
        if "authorization" in request.headers:
            if self._wrong >= WRONG_MAX and digest not in self._right:
                return PlainTextResponse("Too many wrong passwords. Try again later.", 429, {"Retry-After": "30"})
            if (visitor := passwords(request)) is not None:
                if digest not in self._right:
                    self._right.append(digest)
                return visitor
            self._wrong += 1
            try:
                await self._clock.sleep_ms(WRONG_MS * self._wrong)
            finally:
                self._wrong -= 1
        # A page that looks again by itself would have the browser ask for a password each time.
        challenge = {} if AGAIN in request.headers else {"WWW-Authenticate": Passwords.challenge}
        return PlainTextResponse("A password is needed.", 401, challenge)


def _is_part_of_another(request: HTTPConnection) -> bool:
    """A page elsewhere may lead here, but may not have its visitors ask for ours as pictures, or in frames."""
    site, mode = request.headers.get("sec-fetch-site"), request.headers.get("sec-fetch-mode")
    return site in ("cross-site", "same-site") and mode != "navigate"


def _with_headers(send: Send) -> Send:
    async def sent(event: Message) -> None:
        if event["type"] == "http.response.start":
            headers = MutableHeaders(scope=event)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(event)

    return sent


# ── forms ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
class Forbidden(Exception):
    """What was sent does not come from a page of ours, or is no form."""


def token_of(request: Request) -> tuple[str, bool]:
    """What each form of the page has to send back, and whether the browser has to be given it first."""
    token = request.cookies.get(FORM_COOKIE, "")
    return (token, False) if token else (new_token(), True)


async def read_form(request: Request) -> dict[str, list[str]]:
    """The fields of a form that one of our pages showed to this browser.

    The token is in the form and in a cookie, which another site can neither read nor have sent with its own form.
    Raises Forbidden.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise Forbidden("This is no form.")
    if not _is_from_here(request):
        raise Forbidden("This form stood on another site.")
    fields = _fields_of(await _read_body(request))
    token, cookie = "".join(fields.pop(FORM_FIELD, [])), request.cookies.get(FORM_COOKIE, "")
    if not cookie or not hmac.compare_digest(token.encode(), cookie.encode()):
        raise Forbidden("This page is too old, or its cookie is gone. Load it again.")
    return fields


def _fields_of(body: str) -> dict[str, list[str]]:
    try:
        return parse_qs(body, keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except ValueError as exc:
        raise Forbidden(f"A form has {FIELDS_MAX} fields at most. Choose fewer jobs, or a filter for all.") from exc


def _is_from_here(request: Request) -> bool:
    """As the browser tells. Behind a proxy that changes the host only its first word can be compared."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        return site == "same-origin"
    return origin is None or urlsplit(origin).netloc == request.headers.get("host", "")


async def _read_body(request: Request) -> str:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > FORM_BYTES_MAX:
            raise Forbidden(f"A form has {FORM_BYTES_MAX} bytes at most. Choose fewer jobs, or a filter for all.")
    try:
        return body.decode("ascii")
    except UnicodeDecodeError as exc:
        raise Forbidden("This is no form.") from exc
