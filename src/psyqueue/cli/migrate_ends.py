"""The two ends of a move, as the command line names them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlencode

import click
from msgspec import Struct

from psyqueue.cli.existing import as_it_is, backend_at, require_store
from psyqueue.cli.sqlite_store import sqlite_file
from psyqueue.config import parse_url
from psyqueue.errors import ConfigError
from psyqueue.moving import House

_IDENTITY = ("key_prefix", "schema", "db", "host", "port", "database")
"""Options of a URL that say which store it is; the others say how it is reached, or are secrets."""
_META = "psyqueue.ends"


class End(Struct, frozen=True):
    """`shown`: for people and for old clients, without a password."""

    url: str
    shown: str


def end_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--from` and `--to`, as `source` and `target`."""
    source = click.option("--from", "source", metavar="URL", help="The store that has the jobs.")
    target = click.option("--to", "target", metavar="URL", help="The store that is to have them.")
    return source(target(command))


def remember_ends(context: click.Context, source: str | None, target: str | None) -> None:
    """For a subcommand: `migrate --from A --to B rollback` is `migrate rollback --from A --to B`."""
    context.meta[_META] = (source, target)


def checked_ends(context: click.Context, source: str | None, target: str | None) -> tuple[End, End]:
    """Raises ConfigError unless these are two stores."""
    before = context.meta.get(_META, (None, None))
    source, target = source or before[0], target or before[1]
    if not source or not target:
        raise ConfigError("a move has two ends: give --from URL and --to URL, e.g. --from sqlite:./jobs.db")
    ends = End(source, address_of(source)), End(target, address_of(target))
    if ends[0].shown == ends[1].shown:
        raise ConfigError(f"--from and --to are the same store, {ends[0].shown}")
    return ends


def address_of(url: str) -> str:
    """The store for people and for old clients: without password and without what only says how it is reached."""
    parsed = parse_url(url)
    file = sqlite_file(backend_at(url))
    if file is not None:
        return f"sqlite:{file}"
    identity = {name: parsed.options[name] for name in _IDENTITY if name in parsed.options}
    return parsed.shown + (f"?{urlencode(identity)}" if identity else "")


@contextlib.asynccontextmanager
async def opened(end: End, *, may_create: bool) -> AsyncIterator[House]:
    """The store, connected. Raises StoreUnusable if it is not there and must not be made."""
    backend = backend_at(end.url)
    if not may_create:
        backend = as_it_is(backend)
        await asyncio.to_thread(require_store, backend)
    await backend.connect()
    try:
        yield House(backend, end.shown)
    finally:
        await backend.disconnect()


async def with_houses(source: End, target: End, work: Callable[[House, House], Any]) -> int:
    """`work` with both stores, which have to be there."""
    async with opened(source, may_create=False) as old, opened(target, may_create=False) as new:
        code: int = await work(old, new)
        return code
