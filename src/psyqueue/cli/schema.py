"""`psyqueue schema up|status|print-sql`: for those whose applications may not define anything."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from psyqueue.cli import output
from psyqueue.cli._load import open_queue
from psyqueue.cli.existing import backend_at
from psyqueue.cli.schema_of import StoreSchema, schema_of
from psyqueue.cli.surface import DONE, NO, Surface, common
from psyqueue.clock import to_ms

_target = click.argument("target", metavar="[MODULE:QUEUE]", required=False)
_grant = click.option("--grant", "role", metavar="ROLE", help="Give this role the rights to work, and no others.")


@click.group()
def schema() -> None:
    """Make the schema of a store, look at it, or print it as SQL."""


@schema.command("up")
@_target
@_grant
@click.option(
    "--unused",
    metavar="DURATION",
    default="7d",
    show_default=True,
    help="Drop the functions of releases that nobody used for so long.",
)
@common
def schema_up(surface: Surface, target: str | None, role: str | None, unused: str) -> int:
    """Make the schema, or bring it up to date while workers run.

    The store is that of --backend, or of MODULE:QUEUE. SQLite files are created or upgraded; stores without a schema
    need nothing.
    """
    found = _schema(surface, target)
    unused_ms = to_ms("unused", unused, minimum_ms=found.unused_ms_min)
    made, status = asyncio.run(found.up(role, unused_ms))
    if surface.is_json:
        output.print_json({**_document(found, status), "done": made})
    else:
        click.echo("\n".join(map(output.clean, made)) or "Nothing was to be done.")
    return DONE


@schema.command("status")
@_target
@common
def schema_status(surface: Surface, target: str | None) -> int:
    """What of the schema is there. Exit code 1 if this release cannot work with it as it is.

    The store is that of --backend, or of MODULE:QUEUE. Nothing is written.
    """
    found = _schema(surface, target)
    status = asyncio.run(found.status())
    document = _document(found, status)
    if surface.is_json:
        output.print_json(document)
        return DONE if document["ok"] else NO
    _print_lines(document["changes"])
    _print_lines(document["function_sets"])
    click.echo(output.clean("; ".join(document["gaps"]) or found.all_well))
    return DONE if document["ok"] else NO


@schema.command("print-sql")
@_target
@_grant
@common
def schema_print_sql(surface: Surface, target: str | None, role: str | None) -> int:
    """Print what `up` does as SQL for psql, without connecting.

    The store is that of --backend, or of MODULE:QUEUE. It may be run on an empty database, on an older schema, and
    again.
    """
    text = _schema(surface, target).script(role)
    if surface.is_json:
        output.print_json({"sql": text})
    else:
        click.echo(text, nl=False)
    return DONE


def _schema(surface: Surface, target: str | None) -> StoreSchema:
    if target is None:
        return schema_of(backend_at(surface.require_url()))
    queue = open_queue(target, surface.url, is_url_given=surface.is_url_given)
    return schema_of(queue.get_exposed("backend"))


def _document(found: StoreSchema, status: Any) -> dict[str, Any]:
    return {
        "store": found.store,
        "ok": not status.gaps,
        "gaps": status.gaps,
        "changes": [_fields(line) for line in status.changes],
        "function_sets": [_fields(line) for line in status.sets],
    }


def _fields(line: Any) -> dict[str, Any]:
    return {name: getattr(line, name) for name in line.__struct_fields__}


def _print_lines(lines: list[dict[str, Any]]) -> None:
    if lines:
        output.print_table(tuple(lines[0]), (tuple(line.values()) for line in lines), empty="")
        click.echo()
