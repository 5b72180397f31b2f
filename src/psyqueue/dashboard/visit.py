"""One request: who looks, at what, and how addresses inside of the dashboard are written."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

from msgspec import Struct
from starlette.requests import Request

from psyqueue.dashboard.access import Role, Visitor
from psyqueue.dashboard.guard import ROOT, VISITOR
from psyqueue.operating.query import quoted


class Page(Struct, frozen=True):
    """What a look answers: a template and what it shows."""

    template: str
    shown: dict[str, Any]
    status: HTTPStatus = HTTPStatus.OK


class Done(Struct, frozen=True):
    """What an act answers: what was done, for people, and the address to go on to."""

    text: str
    back: str


class Visit:
    """`hides`: this visitor sees no payloads, and no texts of handlers."""

    def __init__(self, request: Request, payloads: Role) -> None:
        self.request: Request = request
        self.visitor: Visitor = request.scope[VISITOR]
        self.hides: bool = not self.visitor.may(payloads)
        self._root: str = quote(request.scope[ROOT])

    def may(self, role: Role) -> bool:
        """Whether the visitor may do what takes `role`."""
        return self.visitor.may(role)

    def asked(self, name: str) -> str:
        """A parameter of the address; empty where it is missing."""
        return str(self.request.query_params.get(name, ""))

    def url(self, path: str, /, **parameters: object) -> str:
        """An address inside of the dashboard, wherever that is mounted; empty parameters are left out."""
        return self._root + self.inside(path, **parameters)

    @staticmethod
    def inside(path: str, /, **parameters: object) -> str:
        """The same, from the dashboard's own root."""
        query = urlencode({name: value for name, value in parameters.items() if value not in ("", None)})
        return f"{path}?{query}" if query else path

    @staticmethod
    def filter(**conditions: str) -> str:
        """The text of a filter by plain values."""
        return " ".join(f"{field}:{quoted(value)}" for field, value in conditions.items())

    @property
    def here(self) -> str:
        """The address of this page, from the dashboard's own root."""
        path = quote(self.request.scope["path"].removeprefix(self.request.scope[ROOT]))
        query = self.request.scope["query_string"].decode("latin-1")
        return f"{path}?{query}" if query else path

    @property
    def address(self) -> str:
        """The address of this page, wherever the dashboard is mounted."""
        return self._root + self.here

    def back_to(self, form: Mapping[str, list[str]]) -> str:
        """The page that a form stood on; the start where that cannot be one of ours."""
        given = "".join(form.get("back", []))
        is_ours = given.startswith("/") and not given.startswith("//") and given.isprintable() and "\\" not in given
        return self._root + given if is_ours else self.url("/")
