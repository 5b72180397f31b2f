"""What stands before every page: who comes in, what a browser may do with the answer, and where a change comes from."""

from __future__ import annotations

import hmac
import inspect
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse

from psyqueue.clock import SystemClock
from psyqueue.dashboard.access import Access, Passwords, Visitor
from psyqueue.errors import ConfigError
from psyqueue.ids import new_token

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

FORM_BYTES_MAX: Final = 65_536
FIELDS_MAX: Final = 1_000
FORM_COOKIE: Final = "psyqueue_form"
FORM_FIELD: Final = "form_token"
VISITOR: Final = "psyqueue.visitor"
"""The key of the scope under which a page finds who looks at it."""
WRONG_MS: Final = 1_000
WRONG_MAX: Final = 20
"""Wrong passwords are answered one after the other, so long each; so many wait, the others are sent away."""

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


class Guard:
    """ASGI middleware around all pages, the style sheet included: nothing is answered to who may not come in."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access
        self._wrong = 0
        self._clock = SystemClock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        visitor = await self._visitor(HTTPConnection(scope))
        if visitor is None:
            await (await self._refusal(HTTPConnection(scope)))(scope, receive, _with_headers(send))
            return
        await self._app({**scope, VISITOR: visitor}, receive, _with_headers(send))

    async def _visitor(self, request: HTTPConnection) -> Visitor | None:
        found = self._access(request)
        visitor = await found if inspect.isawaitable(found) else found
        if visitor is not None and not isinstance(visitor, Visitor):
            raise ConfigError(f"access= answered {type(visitor).__name__}; it has to be a Visitor, or None")
        return visitor

    async def _refusal(self, request: HTTPConnection) -> PlainTextResponse:
        if not isinstance(self._access, Passwords):
            return PlainTextResponse("You may not see this dashboard.", 403)
        if "authorization" in request.headers:
            if self._wrong >= WRONG_MAX:
                return PlainTextResponse("Too many wrong passwords. Try again later.", 429, {"Retry-After": "30"})
            self._wrong += 1
            try:
                await self._clock.sleep_ms(WRONG_MS * self._wrong)
            finally:
                self._wrong -= 1
        return PlainTextResponse("A password is needed.", 401, {"WWW-Authenticate": Passwords.challenge})


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

    The token is in a cookie that no other site can read or set, and in the form: a form of another site has it not.
    Raises Forbidden.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise Forbidden("This is no form.")
    if not _is_from_here(request):
        raise Forbidden("This form stood on another site.")
    fields = parse_qs(await _read_body(request), keep_blank_values=True, max_num_fields=FIELDS_MAX)
    token, cookie = "".join(fields.pop(FORM_FIELD, [])), request.cookies.get(FORM_COOKIE, "")
    if not cookie or not hmac.compare_digest(token.encode(), cookie.encode()):
        raise Forbidden("This page is too old, or its cookie is gone. Load it again.")
    return fields


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
