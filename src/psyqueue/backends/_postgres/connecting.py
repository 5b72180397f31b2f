"""One connection of asyncpg, made so that it sends nothing but what it is asked for, and notices a dead network."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import asyncpg

from psyqueue.backends._postgres.faults import CALL_ERRORS, unreachable
from psyqueue.backends._postgres.options import PostgresOptions
from psyqueue.backends.sockets import tune

_ARRAYS: Final = {"_bool": (1000, 16), "_bytea": (1001, 17), "_int4": (1007, 23), "_int8": (1016, 20)}
"""Arrays of built-in types: their number and that of their elements, the same in every server."""


async def connect(options: PostgresOptions) -> Any:
    """Raises StoreUnavailable, StoreUnusable."""
    try:
        connection = await asyncpg.connect(**options.arguments())
    except (*CALL_ERRORS, ValueError) as exc:
        raise unreachable(exc, options.place) from exc
    # asyncpg looks unknown types up when it first meets them: round trips for each connection, and a setting of the
    # session (jit) that a pooler would hand to somebody else. Should asyncpg change, it does just that.
    with contextlib.suppress(AttributeError, KeyError, TypeError):
        connection._protocol.get_settings().register_data_types([_type_of(name) for name in _ARRAYS])  # noqa: SLF001
    with contextlib.suppress(AttributeError):
        tune(connection._transport.get_extra_info("socket"))  # noqa: SLF001
    return connection


def _type_of(name: str) -> dict[str, Any]:
    number, element = _ARRAYS[name]
    nothing = dict.fromkeys(("basetype", "range_subtype", "attrtypoids", "attrnames"))
    return {
        "oid": number,
        "ns": "pg_catalog",
        "name": name,
        "kind": b"b",
        "elemtype": element,
        "elemdelim": ",",
        **nothing,
    }
