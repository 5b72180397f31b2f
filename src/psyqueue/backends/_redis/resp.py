"""The server's protocol as bytes: packed and read by hiredis, in C (docs/adr/0006)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from psyqueue.backends._redis.faults import ReplyError
from psyqueue.errors import MissingExtra

try:
    import hiredis
except ImportError as exc:
    raise MissingExtra("the redis backend", "redis") from exc

Argument: TypeAlias = "bytes | str | int"

pack: Final[Callable[[tuple[Argument, ...]], bytes]] = hiredis.pack_command  # type: ignore[assignment] # its stub says: one argument
"""A command as it goes over the wire; text as UTF-8."""


class _Nothing:
    """What the reader says when the next reply is not there yet: None and False are replies."""


NOTHING: Final = _Nothing()
ProtocolError: Final = hiredis.ProtocolError


def new_reader() -> hiredis.Reader:
    """Replies are bytes, int, list, None, or a ReplyError."""
    return hiredis.Reader(replyError=ReplyError, notEnoughData=NOTHING)
