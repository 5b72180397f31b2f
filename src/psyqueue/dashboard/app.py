"""`Dashboard(q, access=...)`: the pages of a queue as an ASGI application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psyqueue import PsyQueue
from psyqueue.dashboard.access import Access, Role, read_role
from psyqueue.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class Dashboard:
    """Mount it, e.g. `app.mount("/psyqueue", Dashboard(q, access=check))`. The application opens and closes the queue.

    `access` says who asks: `Passwords(...)`, `everyone(role)`, or a function of the request that knows the sessions of
    the application. `payloads` is the least role that sees payloads, results and what handlers said: these may hold
    what not everybody has to know. `title` stands on all pages, the queue's name by default. Raises ConfigError,
    MissingExtra.
    """

    def __init__(self, queue: PsyQueue, *, access: Access, payloads: Role = "viewer", title: str = "") -> None:
        if not isinstance(queue, PsyQueue):
            raise ConfigError(f"Dashboard takes a PsyQueue first, not {type(queue).__name__}")
        if not callable(access):
            raise ConfigError("access= takes Passwords(...), everyone(role), or a function of the request")
        try:
            from psyqueue.dashboard.site import make_site  # noqa: PLC0415 - only who has the extra can load it
        except ModuleNotFoundError as exc:
            raise MissingExtra("the dashboard", "dashboard") from exc
        self._site: ASGIApp = make_site(queue, access, read_role(payloads), title or queue.name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._site(scope, receive, send)
