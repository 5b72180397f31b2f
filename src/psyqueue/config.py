"""What is set outside of the code: addresses of stores (`scheme:address?option=value`), pyproject.toml, environment.

The only place that reads them. The later wins: code, `[tool.psyqueue]` in the pyproject.toml of the current folder,
`PSYQUEUE_*` in the environment, command line.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from msgspec import Struct

from psyqueue.errors import ConfigError

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_CUT_SECRET = re.compile(r"//[^/@?]*:(?!\d+[/?])[^/@?]*\?.*@", re.DOTALL)
"""What stands where a port would is none, and an @ comes later: a password with a question mark in it."""
_USER_INFO = re.compile(r"((?<!/)//(?!/)|^[^:/]*:(?=[^/.])).*@", re.DOTALL)
"""Before a host whose password urllib does not see: behind two slashes, or in an address that has none."""


SETTINGS: Final = (
    "url",
    "queues",
    "concurrency",
    "processes",
    "grace",
    "lease",
    "health_host",
    "health_port",
    "log_level",
    "log_format",
)
"""`url` is the store's; the others are the options of `psyqueue worker` by their names (docs/settings.md)."""
_PREFIX: Final = "PSYQUEUE_"
_ALIKE: Final = 0.9
"""A letter too few, too many or in another place; a name that only begins alike is somebody's own."""


def read_settings(environment: Mapping[str, str] | None = None, folder: Path | None = None) -> dict[str, Any]:
    """What pyproject.toml and the environment say, by the names of SETTINGS; what neither names is missing.

    Values are as they stand there; who uses one checks it. Raises ConfigError for a file that cannot be read, and for
    a name in it that is none.
    """
    settings = _of_project((Path() if folder is None else folder) / "pyproject.toml")
    for name in SETTINGS:
        if text := (os.environ if environment is None else environment).get(_PREFIX + name.upper()):
            settings[name] = text
    return settings


def where_set(name: str) -> str:
    """Who says what `read_settings` finds for this one; empty where nobody does."""
    variable, file = _PREFIX + name.upper(), Path("pyproject.toml")
    if os.environ.get(variable):
        return variable
    return f"[tool.psyqueue] in {file.absolute()}" if name in _of_project(file) else ""


def misspelt() -> list[tuple[str, str]]:
    """Variables that nobody reads and look like one that is read, each with that."""
    known = [_PREFIX + name.upper() for name in SETTINGS]
    others = sorted(name for name in os.environ if name.startswith(_PREFIX) and name not in known)
    return [(name, close[0]) for name in others if (close := difflib.get_close_matches(name, known, 1, _ALIKE))]


def _of_project(file: Path) -> dict[str, Any]:
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"{file.absolute()} cannot be read: {exc}") from exc
    tools = project.get("tool")
    table = tools.get("psyqueue", {}) if isinstance(tools, dict) else {}
    if not isinstance(table, dict):
        raise ConfigError(f"[tool.psyqueue] in {file.absolute()} is no table")
    for name in table:
        if name not in SETTINGS:
            raise ConfigError(
                f"[tool.psyqueue] in {file.absolute()}: there is no {name!r}; there are {', '.join(SETTINGS)}"
            )
    return {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in table.items()}


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
        text = f"{shown!r} is no address of a store; give e.g. 'sqlite:./jobs.db' or 'memory:'"
        raise ConfigError(text, url=shown)
    address, _, query = url.partition("?")
    if _CUT_SECRET.search(url):
        raise ConfigError(f"{mask(url)!r} holds a '?' before its '@': in a user name or password write it as %3F")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as exc:
        shown = mask(url if "@" in query else address)
        raise ConfigError(f"the options of {shown!r} are not written as ?option=value&option=value") from exc
    options = dict(pairs)
    if len(options) != len(pairs):
        raise ConfigError(f"an option of {mask(address)!r} is given twice")
    return StoreUrl(match[1].lower(), address, options, mask(address))


def mask(url: str) -> str:
    """The URL with its password hidden, also if it is written wrongly."""
    try:
        parts = urlsplit(url)
        secret = parts.password
    except ValueError:
        return "(an address that cannot be read)"
    if secret is None and parts.username is None:
        return _USER_INFO.sub(r"\1***@", url)
    if secret is None:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}"))
