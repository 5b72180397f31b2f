"""What a worker and its child processes say to each other: length-prefixed MessagePack over a socket pair.

Nothing in a frame is executed: the child imports the function that the *worker* registered, by its module and name.
"""

from __future__ import annotations

import struct
from typing import Any, TypeAlias

import msgspec

from psyqueue.backend import Delivery

LENGTH = struct.Struct("!I")
FRAME_BYTES_MAX = 64 << 20


class Start(msgspec.Struct, frozen=True, tag=True):
    """The first frame: the worker's own script, if it is one."""

    main_path: str | None


class RunIt(msgspec.Struct, frozen=True, tag=True):
    """Run one delivery; `payload` (JSON) and `trace` are as middleware left them."""

    module: str
    qualname: str
    name: str
    delivery: Delivery
    payload: bytes
    trace: dict[str, str]


class Began(msgspec.Struct, frozen=True, tag=True):
    """The module is imported: from here on the handler runs."""


class Progress(msgspec.Struct, frozen=True, tag=True):
    value: bytes


class FollowUpCall(msgspec.Struct, frozen=True, tag=True):
    """A `ctx.enqueue` of the child, with its id among the `options` (MessagePack); the worker makes the job of it."""

    name: str
    payload: bytes
    options: bytes


class Returned(msgspec.Struct, frozen=True, tag=True):
    result: bytes


class Decision(msgspec.Struct, frozen=True, tag=True):
    """A verdict, returned or raised."""

    kind: str
    after_ms: int | None
    reason: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """An exception: the dotted names of its classes (for `retry_on` and `fatal`), and its JSON."""

    kinds: list[str]
    error: bytes


ToChild: TypeAlias = Start | RunIt
FromChild: TypeAlias = Began | Progress | FollowUpCall | Returned | Decision | Failed

to_child: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
from_child: msgspec.msgpack.Decoder[FromChild] = msgspec.msgpack.Decoder(FromChild)


def pack(frame: Any) -> bytes:
    body = msgspec.msgpack.encode(frame)
    return LENGTH.pack(len(body)) + body
