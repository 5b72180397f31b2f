"""A job that is to be made later, again and again: kept as JSON, complete without its handler."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Plan(Struct, frozen=True, kw_only=True):
    """JSON values alone. `options` are those of `enqueue`, durations as text.

    `version` is that of the handler whose payload this is: whoever runs the job upgrades it, as any other.
    """

    name: str
    queue: str
    payload: Any = None
    options: dict[str, Any] = {}
    version: int = 1
