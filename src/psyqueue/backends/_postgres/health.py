"""What `psyqueue doctor` looks at on a server: read only, and asked in the words of frames/health.sql."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from psyqueue.backends._postgres import schema, upgrade
from psyqueue.backends._postgres.connecting import connect
from psyqueue.backends._postgres.facts import Facts, facts_of, require_usable
from psyqueue.backends._postgres.faults import CALL_ERRORS, translate
from psyqueue.backends._postgres.options import PostgresOptions
from psyqueue.clock import SystemClock
from psyqueue.errors import PsyQueueError

ROUND_TRIPS: Final = 21
NOTICE_S: Final = 2.0
"""As long as a worker sleeps at most without a notice."""
_CHANNEL: Final = "psyqueue:doctor"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What lies where the store should be. `missing`: changes that this psyqueue would make."""

    schema_exists: bool
    has_relations: bool
    has_ledger: bool
    may_create: bool
    role: str
    number: int = 0
    missing: int = 0
    has_functions: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`hidden`: sessions of others that this role is not shown; `hears`: a notice that was sent came."""

    facts: Facts
    place: Place
    settings: Mapping[str, str]
    connections: Row
    transactions: Sequence[Row]
    hidden: int
    prepared: Sequence[Row]
    slots: Sequence[Row]
    tables: Sequence[Row]
    lacking: Sequence[str]
    careless: Sequence[str]
    way: Row
    round_trips_ms: Sequence[float]
    hears: bool


async def look(options: PostgresOptions) -> Health:
    """Raises StoreError, also where no store can be."""
    connection = await connect(options)
    try:
        return await _look(connection, options)
    except CALL_ERRORS as exc:
        raise translate(exc, options.place) from exc
    finally:
        with contextlib.suppress(*CALL_ERRORS):
            await connection.close(timeout=NOTICE_S)


async def _look(connection: Any, options: PostgresOptions) -> Health:
    async def rows(name: str, *args: Any) -> Sequence[Row]:
        found: Sequence[Row] = await connection.fetch(schema.frame(f"health.{name}", options.schema), *args)
        return found

    quoted = f'"{options.schema}"'
    facts = facts_of((await connection.fetch(schema.facts_frame()))[0])
    require_usable(facts, options)
    place = await _place(connection, options, (await rows("place", quoted))[0])
    return Health(
        facts=facts,
        place=place,
        settings={row["name"]: row["setting"] for row in await rows("settings")},
        connections=(await rows("connections"))[0],
        transactions=await rows("transactions"),
        hidden=(await rows("hidden"))[0]["count"],
        prepared=await rows("prepared"),
        slots=await rows("slots"),
        tables=await rows("tables", quoted),
        lacking=[row["lacks"] for row in await rows("lacking", quoted, schema.this_release().functions.suffix)],
        careless=[row["role"] for row in await rows("careless", quoted)],
        way=(await rows("way"))[0],
        round_trips_ms=await _round_trips(connection, options),
        hears=await _hears(connection, options),
    )


async def _place(connection: Any, options: PostgresOptions, row: Row) -> Place:
    seen = {name: row[name] for name in ("schema_exists", "has_relations", "has_ledger", "may_create", "role")}
    if not row["has_ledger"]:
        return Place(**seen)
    try:
        found = await upgrade.look(connection, options, schema.this_release())
    except PsyQueueError as exc:
        return Place(**seen, problem=exc.message)
    except CALL_ERRORS as exc:
        return Place(**seen, problem=translate(exc, options.place).message)
    number = max((each.number for each in found.ledger), default=0)
    missing = sum(each.phase == "pre" for each in found.missing)
    return Place(**seen, number=number, missing=missing, has_functions=found.has_functions)


async def _round_trips(connection: Any, options: PostgresOptions) -> Sequence[float]:
    clock, times = SystemClock(), []
    statement = schema.frame("health.ping", options.schema)
    for _ in range(ROUND_TRIPS):
        began_ms = clock.mono_ms()
        await connection.fetchval(statement)
        times.append(clock.mono_ms() - began_ms)
    return times


async def _hears(connection: Any, options: PostgresOptions) -> bool:
    """Whether what one connection sends reaches another one that listens. A pooler may be in between."""
    sender = await connect(options)
    heard, token = asyncio.Event(), f"{id(sender):x}"

    def on_notice(_connection: Any, _pid: int, _channel: str, body: object) -> None:
        if body == token:
            heard.set()

    try:
        await connection.add_listener(_CHANNEL, on_notice)
        await sender.fetchval(schema.frame("health.notify", options.schema), token)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NOTICE_S):
                await heard.wait()
        await connection.remove_listener(_CHANNEL, on_notice)
    finally:
        await sender.close(timeout=NOTICE_S)
    return heard.is_set()
