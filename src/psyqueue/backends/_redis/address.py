"""Where a server is and how it is greeted, as values: for the event loop's links and for the lease thread's alike."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from psyqueue.errors import ConfigError, InvalidOption

PORT_DEFAULT = 6379
PORT_MAX = 65_535
_TLS_OF_SCHEME = {"redis": False, "valkey": False, "rediss": True, "valkeys": True, "unix": False}
_FORMS = "Write redis://[user:password@]host[:port][/db], rediss:// for TLS, valkey://, or unix:///path/to.sock?db=0"


class CredentialSource(Protocol):
    """What redis-py calls a credential provider: asked at each connecting, since what it gives may expire."""

    def get_credentials(self) -> Sequence[str]: ...

    async def get_credentials_async(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Verified unless `is_verified` is False: then anybody may read and change what is said."""

    ca_file: str | None = None
    ca_folder: str | None = None
    ca_data: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password: str | None = field(default=None, repr=False)
    is_verified: bool = True
    is_host_checked: bool = True

    def context(self) -> ssl.SSLContext:
        """Read the files, each time anew: certificates are replaced while we run. Blocking. Raises ConfigError."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file, capath=self.ca_folder, cadata=self.ca_data)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file, self.key_password)
        except (OSError, ValueError) as exc:
            files = ", ".join(str(each) for each in (self.ca_file, self.cert_file, self.key_file) if each)
            raise ConfigError(
                f"the TLS files ({files}) cannot be used: {exc}. Look at tls_ca, tls_cert, tls_key"
            ) from exc
        context.check_hostname = self.is_verified and self.is_host_checked
        if not self.is_verified:
            context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One server. Nothing here opens anything."""

    host: str = "localhost"
    port: int = PORT_DEFAULT
    unix_socket: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    credential_source: CredentialSource | None = field(default=None, repr=False)
    db: int = 0
    tls: Tls | None = None
    connect_timeout_ms: int = 5_000
    timeout_ms: int = 10_000

    @property
    def place(self) -> str:
        """For messages: never a secret."""
        if self.unix_socket is not None:
            return self.unix_socket
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def credentials(self) -> tuple[str, ...]:
        """What AUTH takes; empty: none is needed, or `credential_source` has to be asked."""
        if self.username is not None:
            return (self.username, self.password or "")
        return (self.password,) if self.password is not None else ()


def greeting(address: Address, credentials: Sequence[str]) -> tuple[tuple[str | int, ...], ...]:
    """The first commands of a connection, sent together. The last one is a nicety: it may be refused."""
    commands: list[tuple[str | int, ...]] = []
    if credentials:
        commands.append(("AUTH", *credentials))
    if address.db:
        commands.append(("SELECT", address.db))
    return (*commands, ("CLIENT", "SETNAME", "psyqueue"))


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlParts:
    """What a URL says; None: it does not say it."""

    host: str
    port: int
    unix_socket: str | None
    username: str | None
    password: str | None = field(repr=False)
    db: int | None
    is_tls: bool


def parse(url: str) -> UrlParts:
    """Raises InvalidOption, which shows neither user nor password."""
    if not isinstance(url, str):
        raise InvalidOption("url", type(url).__name__, "is not text", _FORMS)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise _problem(url, f"cannot be read ({_without_secrets(str(exc), url)})") from exc
    if parts.scheme not in _TLS_OF_SCHEME or "://" not in url:
        raise _problem(url, "is not an address of a Redis or Valkey server")
    if parts.fragment:
        raise _problem(url, "holds a '#': in a user name or password write it as %23")
    if port == 0:
        raise _problem(url, "names port 0")
    is_unix = parts.scheme == "unix"
    if is_unix and (parts.hostname or not parts.path.strip("/")):
        raise _problem(url, "names no socket: three slashes come before an absolute path")
    return UrlParts(
        host=unquote(parts.hostname or "localhost"),
        port=port or PORT_DEFAULT,
        unix_socket=unquote(parts.path) if is_unix else None,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        db=_db_in(url, parts, is_unix=is_unix),
        is_tls=_TLS_OF_SCHEME[parts.scheme],
    )


def _db_in(url: str, parts: SplitResult, *, is_unix: bool) -> int | None:
    text = "" if is_unix else parts.path.strip("/")
    if parts.query:
        name, _, value = parts.query.partition("=")
        if name != "db" or "&" in value or text:
            raise _problem(url, "has options that are unknown here; only ?db=0 is")
        text = value
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise _problem(url, f"names the database {text!r}, which is not a number from 0")
    return int(text)


def _problem(url: str, problem: str) -> InvalidOption:
    return InvalidOption("url", shown(url), problem, _FORMS)


def shown(url: str) -> str:
    """The URL without user and password, also if it is written wrongly."""
    return re.sub(r"(//|^[^:/]*:(?!//)).*@", r"\1***@", url, flags=re.DOTALL)


def _without_secrets(text: str, url: str) -> str:
    """What urllib says may quote a part of the URL."""
    return "its host or port" if "@" in url else text
