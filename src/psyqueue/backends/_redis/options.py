from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from psyqueue.backends._redis.address import PORT_DEFAULT, PORT_MAX, Address, Tls, UrlParts, parse, shown
from psyqueue.backends._redis.adopt import address_of
from psyqueue.clock import Duration, to_ms
from psyqueue.errors import InvalidOption

KEY_PREFIX_CHARS_MAX = 100
_TEN_MINUTES_MS = 600_000
_TLS_OPTIONS = ("tls_ca", "tls_cert", "tls_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """How one Redis or Valkey store is reached.

    `url` says host, port, database, TLS and socket, and wins over `username` and `password` if it holds them.
    `key_prefix`: all keys begin with it; two stores in one database need two of them. `tls`: verified against the
    system's authorities or `tls_ca`; `tls_cert` and `tls_key` are ours. `connect_timeout`: to be let in. `timeout`: for
    a reply; then the connection is dropped, and what became of the call is unknown until it is repeated. `client`: take
    the settings of a redis-py client; it is neither used nor closed. `allow_eviction`: start although the server may
    throw jobs away when it is full. `test_clock`: the store's clock stands still and is moved by tests.
    """

    host: str = "localhost"
    port: int = PORT_DEFAULT
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    url: str | None = field(default=None, repr=False)
    key_prefix: str = "psyqueue:"
    tls: bool = False
    tls_ca: str | os.PathLike[str] | None = None
    tls_cert: str | os.PathLike[str] | None = None
    tls_key: str | os.PathLike[str] | None = None
    tls_verify: bool = True
    unix_socket: str | os.PathLike[str] | None = None
    connect_timeout: Duration = "5s"
    timeout: Duration = "10s"
    client: Any = field(default=None, repr=False)
    allow_eviction: bool = False
    test_clock: bool = False
    address: Address = field(init=False)
    base: str = field(init=False)
    """What every key begins with: the prefix, and as hash tag the prefix again, so that all keys share one slot."""

    def __post_init__(self) -> None:
        """Raises InvalidOption."""
        for option in ("tls", "tls_verify", "allow_eviction", "test_clock"):
            if not isinstance(getattr(self, option), bool):
                raise InvalidOption(option, getattr(self, option), "is not a bool")
        _check_prefix(self.key_prefix)
        times = {
            "connect_timeout_ms": _limit_ms("connect_timeout", self.connect_timeout),
            "timeout_ms": _limit_ms("timeout", self.timeout),
        }
        if self.client is not None:
            address = address_of(self.client, **times)
            _check_alone(self)
        else:
            _check_place(self)
            parts = parse(self.url) if self.url is not None else _parts_of(self)
            address = _address(self, parts, **times)
        object.__setattr__(self, "address", address)
        object.__setattr__(self, "base", f"{self.key_prefix}{{{self.key_prefix.removesuffix(':')}}}:")


def _check_prefix(prefix: object) -> None:
    way_out = f"Give 1 to {KEY_PREFIX_CHARS_MAX} printable characters without spaces and braces, such as 'psyqueue:'"
    if not isinstance(prefix, str) or not 1 <= len(prefix) <= KEY_PREFIX_CHARS_MAX:
        raise InvalidOption("key_prefix", prefix, "has no usable length", way_out)
    if not prefix.isprintable() or any(char.isspace() or char in "{}" for char in prefix):
        raise InvalidOption("key_prefix", prefix, "holds a character that is not allowed", way_out)
    if prefix == ":":
        raise InvalidOption("key_prefix", prefix, "names nothing", way_out)


def _limit_ms(option: str, value: Duration) -> int:
    limit_ms = to_ms(option, value, minimum_ms=1)
    if limit_ms > _TEN_MINUTES_MS:
        raise InvalidOption(option, value, "is more than ten minutes")
    return limit_ms


def _check_alone(options: RedisOptions) -> None:
    """A client brings its own address: another one beside it would be silently ignored."""
    plain = {"host": "localhost", "port": PORT_DEFAULT, "db": 0, "tls": False, "tls_verify": True}
    others = ("url", "username", "password", "unix_socket", *_TLS_OPTIONS)
    for option, unset in {**plain, **dict.fromkeys(others)}.items():
        if getattr(options, option) != unset:
            value = "***" if option in ("url", "password") else getattr(options, option)
            raise InvalidOption(option, value, "is given beside client, which has its own", "Give one of the two")


def _check_place(options: RedisOptions) -> None:
    if not isinstance(options.host, str) or not options.host or any(not ord(char) > 32 for char in options.host):
        raise InvalidOption("host", options.host, "is no name of a host")
    if not isinstance(options.port, int) or isinstance(options.port, bool) or not 1 <= options.port <= PORT_MAX:
        raise InvalidOption("port", options.port, f"is not a number from 1 to {PORT_MAX}")
    if not isinstance(options.db, int) or isinstance(options.db, bool) or options.db < 0:
        raise InvalidOption("db", options.db, "is not a number from 0", "Most servers have databases 0 to 15")
    for option in ("username", "password"):
        value = getattr(options, option)
        if value is not None and not isinstance(value, str):
            raise InvalidOption(option, type(value).__name__, "is not text")
    for option in ("unix_socket", *_TLS_OPTIONS):
        value = getattr(options, option)
        if value is not None and not _path_of(value):
            raise InvalidOption(option, value, "is not the path of a file")


def _path_of(value: object) -> str | None:
    """The path as text; None: there is none, or it is none."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    return text if isinstance(text, str) and text and "\0" not in text else None


def _parts_of(options: RedisOptions) -> UrlParts:
    return UrlParts(
        host=options.host,
        port=options.port,
        unix_socket=_path_of(options.unix_socket),
        username=None,
        password=None,
        db=None,
        is_tls=options.tls,
    )


def _address(options: RedisOptions, parts: UrlParts, *, connect_timeout_ms: int, timeout_ms: int) -> Address:
    if options.tls and not parts.is_tls:
        raise InvalidOption("tls", True, f"does not fit url={shown(options.url or '')!r}", "Write rediss:// there")
    if parts.db is not None and options.db not in (0, parts.db):
        raise InvalidOption("db", options.db, f"and the url's database {parts.db} differ", "Give one of them")
    return Address(
        host=parts.host,
        port=parts.port,
        unix_socket=parts.unix_socket,
        # A user and a password belong together: half of them from each place would be a third account.
        username=parts.username if parts.password is not None else parts.username or options.username,
        password=parts.password if parts.password is not None else options.password,
        db=parts.db if parts.db is not None else options.db,
        tls=_tls(options, parts),
        connect_timeout_ms=connect_timeout_ms,
        timeout_ms=timeout_ms,
    )


def _tls(options: RedisOptions, parts: UrlParts) -> Tls | None:
    if not parts.is_tls:
        for option in _TLS_OPTIONS:
            if getattr(options, option) is not None:
                raise InvalidOption(option, getattr(options, option), "does nothing without TLS", "Give tls=True")
        if not options.tls_verify:
            raise InvalidOption("tls_verify", False, "does nothing without TLS", "Give tls=True")
        return None
    if parts.unix_socket is not None:
        raise InvalidOption("tls", True, "is not spoken over a Unix socket")
    if options.tls_key is not None and options.tls_cert is None:
        raise InvalidOption("tls_key", options.tls_key, "needs its certificate", "Give tls_cert too")
    return Tls(
        ca_file=_path_of(options.tls_ca),
        cert_file=_path_of(options.tls_cert),
        key_file=_path_of(options.tls_key),
        is_verified=options.tls_verify,
    )
