"""Who may see the dashboard, and do what."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from msgspec import Struct

from psyqueue.errors import ConfigError

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

Role: TypeAlias = Literal["viewer", "operator", "admin"]

ROLES: Final[tuple[Role, ...]] = ("viewer", "operator", "admin")
"""Each may do what those before it may: look; run again, cancel, pause; delete, change limits, stop workers."""
PASSWORD_CHARS_MIN: Final = 12
NAME_CHARS_MAX: Final = 100


class Visitor(Struct, frozen=True):
    """Somebody who may come in. `name` stands in the log beside what they did. Raises ConfigError for no role."""

    role: Role
    name: str = ""

    def __post_init__(self) -> None:
        read_role(self.role)

    def may(self, role: Role) -> bool:
        """Whether what takes `role` is allowed. Raises nothing."""
        return ROLES.index(self.role) >= ROLES.index(role)


Access: TypeAlias = "Callable[[HTTPConnection], Visitor | Awaitable[Visitor | None] | None]"
"""Who asks, from the request: its session, its headers. None: nobody who may come in."""


def everyone(role: Role) -> Access:
    """For a dashboard that only those can reach who may: each of them is `role`. Raises ConfigError."""
    visitor = Visitor(read_role(role))
    return lambda _: visitor


class Passwords:
    """One password for each role, by HTTP Basic; the name that is typed beside it is for the log alone.

    Raises ConfigError for none at all, one that is too short, and two that are the same.
    """

    challenge: Final = 'Basic realm="psyqueue", charset="UTF-8"'

    def __init__(self, *, viewer: str | None = None, operator: str | None = None, admin: str | None = None) -> None:
        given: dict[Role, str | None] = {"viewer": viewer, "operator": operator, "admin": admin}
        self._digests: dict[Role, bytes] = {
            role: _digest(_read_password(role, each)) for role, each in given.items() if each is not None
        }
        if not self._digests:
            raise ConfigError("Passwords(...) needs at least one, such as admin=")
        if len({*self._digests.values()}) < len(self._digests):
            raise ConfigError("two roles have the same password: nobody could tell who comes")

    def __call__(self, request: HTTPConnection) -> Visitor | None:
        """Who it is; None without a password, or with a wrong one."""
        name, password = _credentials(request.headers.get("authorization", ""))
        given = _digest(password)
        found: Visitor | None = None
        for role, digest in self._digests.items():  # all of them: the time taken tells nothing
            if hmac.compare_digest(digest, given):
                found = Visitor(role, name)
        return found


def read_role(role: str) -> Role:
    """Raises ConfigError."""
    for each in ROLES:
        if role == each:
            return each
    raise ConfigError(f"{role!r} is no role of the dashboard; there are {', '.join(ROLES)}")


def _read_password(role: Role, password: object) -> str:
    if not isinstance(password, str) or len(password) < PASSWORD_CHARS_MIN:
        text = f"the password of {role} is no text of {PASSWORD_CHARS_MIN} characters or more"
        raise ConfigError(f"{text}; `python -c 'import secrets; print(secrets.token_urlsafe())'` makes one")
    return password


def _credentials(header: str) -> tuple[str, str]:
    """Name and password; both empty where there are none."""
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        name, _, password = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return "".join(ch if ch.isprintable() else "?" for ch in name[:NAME_CHARS_MAX]), password


def _digest(password: str) -> bytes:
    return hashlib.sha256(password.encode()).digest()
