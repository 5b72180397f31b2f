"""What a worker says of itself when it opens its session: for people, and for explain and doctor in other processes."""

from __future__ import annotations

import os
import socket
import sys
from functools import cache
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psyqueue.backend import Session
    from psyqueue.kernel.handlers import HandlerSpec

HANDLERS_MAX = 500
"""Beyond, the names are left out: a session's row is read with every look at the workers."""


class Presence(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`handlers`: name or alias → version, None where the worker does not say. `clock_ms`: its own, when it began.

    What other programs wrote into a session is read as far as it fits: nothing here decides about a job.
    """

    host: str = ""
    pid: int = 0
    psyqueue: str = ""
    python: str = ""
    slots: int = 0
    clock_ms: int = 0
    handlers: dict[str, int] | None = None


def presence(specs: Sequence[HandlerSpec], slots: int, clock_ms: int) -> bytes:
    """The `meta` of a session."""
    names = {name: spec.version for spec in specs for name in (spec.name, *spec.aliases)}
    return _encode(
        Presence(
            host=socket.gethostname(),
            pid=os.getpid(),
            psyqueue=own_version(),
            python=".".join(map(str, sys.version_info[:3])),
            slots=slots,
            clock_ms=clock_ms,
            handlers=names if len(names) <= HANDLERS_MAX else None,
        )
    )


def presence_of(session: Session) -> Presence:
    """What the worker of a session says of itself; empty where it says nothing that can be read."""
    try:
        return _decode(session.meta)
    except msgspec.MsgspecError:
        return Presence()


@cache
def own_version() -> str:
    """Of this package; empty where it was never installed."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - slow, and only workers say it

    try:
        return version("psyqueue")
    except PackageNotFoundError:
        return ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Presence).decode
