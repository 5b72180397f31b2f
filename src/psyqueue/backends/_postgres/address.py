"""What the address of a server names; what it leaves out is for the options that stand beside it."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs, urlsplit

PORT_DEFAULT: Final = 5432


def named_in(address: str) -> dict[str, str]:
    """Those of host, database, user and password that it names; `host` as it stands there, one or several, with ports.

    Raises ValueError: it is no URL.
    """
    parts = urlsplit(address)
    asked = parse_qs(parts.query)
    hosts = parts.netloc.rpartition("@")[2]
    for host in hosts.split(","):
        _ = urlsplit(f"//{host}").port  # raises if it is none
    found = {
        "host": hosts or _first(asked, "host"),
        "database": parts.path.strip("/") or _first(asked, "database", "dbname"),
        "user": parts.username or _first(asked, "user"),
        "password": parts.password or _first(asked, "password"),
    }
    return {option: text for option, text in found.items() if text}


def _first(asked: dict[str, list[str]], *names: str) -> str:
    return next((asked[name][0] for name in names if name in asked), "")


def with_ports(hosts: str) -> str:
    """For messages: `a:5432,b:5433`, or the folder of a socket with its number."""
    return ",".join(
        host if not host.startswith("/") and urlsplit(f"//{host}").port else f"{host}:{PORT_DEFAULT}"
        for host in hosts.split(",")
    )
