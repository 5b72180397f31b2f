"""Addresses of stores: `scheme:address?option=value`."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from msgspec import Struct

from psyqueue.errors import ConfigError

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)


class StoreUrl(Struct, frozen=True):
    """`address` is the URL without its query; `shown` is the same without a password, for messages."""

    scheme: str
    address: str
    options: dict[str, str]
    shown: str


def parse_url(url: str) -> StoreUrl:
    """Take an address apart. Raises ConfigError, which never shows a password."""
    if not isinstance(url, str) or not (match := _SCHEME.match(url)):
        shown = mask(url) if isinstance(url, str) else type(url).__name__
        raise ConfigError(f"{shown!r} is no address of a store; give e.g. 'sqlite:./jobs.db' or 'memory:'")
    address, _, query = url.partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as exc:
        raise ConfigError(f"the options of {mask(address)!r} are not written as ?option=value&option=value") from exc
    options = dict(pairs)
    if len(options) != len(pairs):
        raise ConfigError(f"an option of {mask(address)!r} is given twice")
    return StoreUrl(match[1].lower(), address, options, mask(address))


def mask(url: str) -> str:
    """The URL with its password hidden."""
    try:
        parts = urlsplit(url)
        secret = parts.password
    except ValueError:
        return "(an address that cannot be read)"
    if secret is None:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}"))
