"""What a move says before and after: tables that a person believes, and the same as JSON."""

from __future__ import annotations

from typing import Any

import click

from psyqueue.cli import output
from psyqueue.cli.migrate_ends import End, opened
from psyqueue.cli.surface import Surface
from psyqueue.errors import StoreUnusable
from psyqueue.moving import Plan, Selection, Verified, make_plan
from psyqueue.words import counted


async def planned(
    source: End, target: End, selection: Selection, *, is_merge: bool = False, is_live: bool = False
) -> Plan:
    """What a move would do. Nothing is made by that; what is not there is empty."""
    async with opened(source, may_create=False) as old:
        try:
            async with opened(target, may_create=False) as new:
                return await make_plan(old, new, selection, is_merge=is_merge, is_live=is_live)
        except StoreUnusable as exc:
            plan = await make_plan(old, None, selection, is_live=is_live)
            plan.warnings.append(f"the destination is not there yet ({exc.message}): it would be made")
            return plan


def document_of_plan(plan: Plan) -> dict[str, Any]:
    return {
        "queues": [
            {"queue": row.queue, "status": row.status, "source": row.source, "destination": row.destination}
            for row in plan.rows
        ],
        "things": plan.things,
        "obstacles": plan.obstacles,
        "warnings": plan.warnings,
    }


def show_plan(plan: Plan, source: str, target: str) -> None:
    click.echo(output.clean(f"{source} → {target}: {counted(plan.jobs, 'job')} would move"))
    rows = [(row.queue, row.status, row.source, row.destination) for row in plan.rows]
    output.print_table(("queue", "status", "moves", "there now"), rows, empty="No jobs.")
    for part, count in plan.things.items():
        click.echo(f"{count:,} {part}")
    for text in plan.warnings:
        click.echo(output.clean(f"Note: {text}."))
    for text in plan.obstacles:
        click.echo(output.clean(f"In the way: {text}."))


def show_verified(surface: Surface, verified: Verified, source: str, target: str, *, is_closed: bool) -> None:
    """What was moved and compared."""
    rows = [
        (queue, status, count, verified.target.get((queue, status), (0, 0))[0])
        for (queue, status), (count, _) in sorted(verified.source.items())
        if queue
    ]
    moved = sum(count for *_, count in rows)
    if surface.is_json:
        names = ("queue", "status", "source", "destination")
        document = {"ok": verified.ok, "dry_run": False, "digest_ok": verified.ok, "moved": moved}
        output.print_json({**document, "queues": [dict(zip(names, row, strict=True)) for row in rows]})
        return
    output.print_table(("queue", "status", "source", "destination"), rows, empty="Nothing was left to move.")
    closed = f"{source} is closed: whoever still uses it is told {target}"
    click.echo(
        output.clean(f"Moved {counted(moved, 'job')}, contents compared and equal. {closed if is_closed else ''}")
    )
