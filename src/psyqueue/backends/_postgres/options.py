"""How a PostgreSQL store is reached, checked once."""

from __future__ import annotations

import os
import re
import ssl as tls
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

from psyqueue.backends._postgres.address import PORT_DEFAULT, named_in, with_ports
from psyqueue.clock import Duration, to_ms
from psyqueue.errors import InvalidOption

HOST_DEFAULT = "localhost"
SslMode: TypeAlias = Literal["disable", "allow", "prefer", "require", "verify-full"]
"""As in libpq; verify-ca is none: who looks at the certificate looks at the name in it, too."""
_PORT_MAX = 65_535
_SIZE_MAX = 1_000
_TEN_MINUTES_MS = 600_000
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,49}")
"""Names of channels are made of it, and end at 63 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresOptions:
    """How one PostgreSQL store is reached.

    `connection_string`, "postgresql://user:password@host:port/database", overrides what it names of host, port,
    database, user and password. `ssl`: True verifies the server against the system's authorities or those in the file
    `ssl_ca`; or an own `ssl.SSLContext`. `sslmode`: the same as addresses of PostgreSQL say it. `max_size`: connections
    at most. `schema`: everything lives in it; two stores in one database need two of them. `schema_policy`: "create"
    makes and upgrades what is missing there when it connects, "require" raises instead, and needs no rights on
    definitions. `pool`: an own asyncpg.Pool, which is used for all steps and not closed; connections that wait or renew
    are made from the other options. `connect_timeout`: to be let in. `statement_timeout`: for a reply, then what became
    of the call is unknown until it is repeated. `prepared`: False behind a pooler that hands each statement to another
    connection. `test_clock`: the store's clock stands still and is moved by tests.
    """

    connection_string: str | None = field(default=None, repr=False)
    host: str = HOST_DEFAULT
    port: int = PORT_DEFAULT
    database: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ssl: bool | tls.SSLContext = False
    ssl_ca: str | os.PathLike[str] | None = None
    sslmode: SslMode | None = None
    max_size: int = 10
    schema: str = "psyqueue"
    schema_policy: Literal["create", "require"] = "create"
    pool: Any = field(default=None, repr=False)
    connect_timeout: Duration = "5s"
    statement_timeout: Duration = "30s"
    application_name: str = "psyqueue"
    prepared: bool = True
    test_clock: bool = False
    connect_timeout_ms: int = field(init=False)
    statement_timeout_ms: int = field(init=False)
    place: str = field(init=False)
    """The store, for messages: without secrets."""

    def __post_init__(self) -> None:
        """Raises InvalidOption."""
        for option in ("prepared", "test_clock"):
            if not isinstance(getattr(self, option), bool):
                raise InvalidOption(option, getattr(self, option), "is not a bool")
        if not isinstance(self.schema, str) or not _SCHEMA.fullmatch(self.schema) or self.schema.startswith("pg_"):
            way_out = "Give up to 50 letters, digits and underscores, such as 'psyqueue'"
            raise InvalidOption("schema", self.schema, "is no name for a schema", way_out)
        if self.schema_policy not in ("create", "require"):
            raise InvalidOption("schema_policy", self.schema_policy, "is neither 'create' nor 'require'")
        _check_number("port", self.port, _PORT_MAX)
        _check_number("max_size", self.max_size, _SIZE_MAX)
        _check_texts(self)
        _check_ssl(self)
        object.__setattr__(self, "connect_timeout_ms", _limit_ms("connect_timeout", self.connect_timeout))
        object.__setattr__(self, "statement_timeout_ms", _limit_ms("statement_timeout", self.statement_timeout))
        object.__setattr__(self, "place", _place(self))

    @property
    def is_verified(self) -> bool:
        """Whether the server has to prove who it is; of an SSLContext its owner knows."""
        return self.ssl is not False or self.sslmode == "verify-full"

    def arguments(self) -> dict[str, Any]:
        """What asyncpg.connect takes. Nothing of it sets a session up: a pooler may hand out another one each time.

        Files are read each time, since they are replaced while we run. Raises InvalidOption.
        """
        where = self._where()
        if self.ssl is True or self.sslmode == "verify-full":
            where["ssl"] = _verifying(self.ssl_ca)
        elif self.ssl is not False or self.sslmode is not None:
            where["ssl"] = self.ssl or self.sslmode
        return {
            **where,
            "timeout": self.connect_timeout_ms / 1000,
            "command_timeout": self.statement_timeout_ms / 1000,
            "statement_cache_size": 100 if self.prepared else 0,
            "max_cached_statement_lifetime": 0,
            "server_settings": {"application_name": self.application_name},
        }

    def _where(self) -> dict[str, Any]:
        """The server and the role. Beside an address only what it leaves out: asyncpg takes that for what is right."""
        named: dict[str, str] = {}
        where: dict[str, Any] = {}
        if self.connection_string is not None:
            named = named_in(self.connection_string)
            where = {"dsn": self.connection_string}
        is_asked_for = (self.host, self.port) != (HOST_DEFAULT, PORT_DEFAULT) or not where
        if "host" not in named and is_asked_for:
            where |= {"host": self.host, "port": self.port}
        for option in ("database", "user", "password"):
            if option not in named and getattr(self, option) is not None:
                where[option] = getattr(self, option)
        return where


def _verifying(ca: str | os.PathLike[str] | None) -> tls.SSLContext:
    try:
        return tls.create_default_context(cafile=ca)
    except OSError as exc:  # SSLError is one
        raise InvalidOption("ssl_ca", ca, f"cannot be read as certificates ({exc.strerror or exc})") from exc


def _check_number(option: str, value: object, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InvalidOption(option, value, f"is not a number from 1 to {most}")


def _check_texts(options: PostgresOptions) -> None:
    for option in ("connection_string", "host", "database", "user", "password", "application_name"):
        value = getattr(options, option)
        is_secret = option in ("connection_string", "password")
        if value is None and option not in ("host", "application_name"):
            continue
        if not isinstance(value, str) or not value or "\0" in value:
            raise InvalidOption(option, "***" if is_secret else value, "is not a text")
    text = options.connection_string
    if text is not None and not text.startswith(("postgresql://", "postgres://")):
        raise InvalidOption("connection_string", "***", "does not begin with postgresql://")


def _check_ssl(options: PostgresOptions) -> None:
    if not isinstance(options.ssl, bool | tls.SSLContext):
        raise InvalidOption("ssl", options.ssl, "is neither a bool nor an ssl.SSLContext")
    if options.sslmode is not None:
        if options.sslmode not in get_args(SslMode):
            way_out = f"There are {', '.join(get_args(SslMode))}"
            raise InvalidOption("sslmode", options.sslmode, "is unknown", way_out)
        if options.ssl is not False:
            raise InvalidOption("sslmode", options.sslmode, "is given beside ssl", "Give one of the two")
    if options.ssl_ca is not None and options.ssl is not True and options.sslmode != "verify-full":
        raise InvalidOption("ssl_ca", options.ssl_ca, "does nothing without ssl=True", "Give ssl=True")
    if options.ssl_ca is not None and not isinstance(options.ssl_ca, str | os.PathLike):
        raise InvalidOption("ssl_ca", options.ssl_ca, "is not the path of a file")


def _limit_ms(option: str, value: Duration) -> int:
    limit_ms = to_ms(option, value, minimum_ms=1)
    if limit_ms > _TEN_MINUTES_MS:
        raise InvalidOption(option, value, "is more than ten minutes")
    return limit_ms


def _place(options: PostgresOptions) -> str:
    hosts = f"{options.host}:{options.port}"
    if options.connection_string is not None:
        try:
            if (named := named_in(options.connection_string).get("host")) is not None:
                hosts = with_ports(named)
            fragment = urlsplit(options.connection_string).fragment
        except ValueError as exc:
            raise InvalidOption("connection_string", "***", "is no URL") from exc
        if fragment:
            way_out = "In a user name or password write it as %23"
            raise InvalidOption("connection_string", "***", "holds a '#'", way_out)
    return f"PostgreSQL at {hosts}, schema {options.schema}"
