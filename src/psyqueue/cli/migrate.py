"""`psyqueue migrate`: all jobs of one store into another, in one command that may be killed and run again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlencode

import click

from psyqueue.cli import output
from psyqueue.cli.existing import as_it_is, backend_at, require_store
from psyqueue.cli.progress import ProgressLine
from psyqueue.cli.sqlite_store import sqlite_file
from psyqueue.cli.surface import DONE, NO, Surface, common, confirm
from psyqueue.clock import to_ms
from psyqueue.config import parse_url
from psyqueue.errors import ConfigError, StoreUnusable
from psyqueue.moving import House, Mover, Plan, Selection, Verified, make_plan, reopen

_IDENTITY = ("key_prefix", "schema", "db", "host", "port", "database")
"""Options of a URL that say which store it is; the others say how it is reached, or are secrets."""


def _ends(command: Callable[..., Any]) -> Callable[..., Any]:
    source = click.option("--from", "source", metavar="URL", help="The store that has the jobs.")
    target = click.option("--to", "target", metavar="URL", help="The store that is to have them.")
    return source(target(command))


@click.group(invoke_without_command=True)
@_ends
@click.option("--dry-run", is_flag=True, help="Say what would be done, and what stands in the way; change nothing.")
@click.option("--include", metavar="STATUS,…", default="", help="Ended jobs to take along: completed, cancelled.")
@click.option("--queue", "queues", metavar="NAME", multiple=True, help="Only this queue; may be given several times.")
@click.option("--merge", is_flag=True, help="The destination may hold other jobs already.")
@click.option(
    "--take-over", is_flag=True, help="Take running jobs from their workers; they run again in the new store."
)
@click.option(
    "--wait", metavar="DURATION", default="60s", show_default=True, help="How long running jobs may take to end."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
@common
def migrate(surface: Surface, context: click.Context, source: str, target: str, **options: Any) -> int | None:
    """Move all jobs of one store into another, and close the old one.

    Jobs keep their ids, attempts, errors, times, priorities, order, keys, dependencies; limits, schedules and shared
    state go along. What was killed is done again by the same command. Until the old store is closed, `rollback` undoes
    everything.
    """
    if context.invoked_subcommand is not None:
        context.obj = surface
        context.meta["psyqueue.ends"] = (source, target)
        return None
    selection = Selection.of((name for name in options["include"].split(",") if name), options["queues"])
    work = _dry_run if options["dry_run"] else _run
    return asyncio.run(work(surface, *_checked(source, target), selection, options))


@migrate.command("rollback")
@_ends
@click.option("--lost", "is_lost", is_flag=True, help="The new store is gone for good: only open the old one again.")
@click.pass_context
@common
def migrate_rollback(
    surface: Surface, context: click.Context, source: str | None, target: str | None, *, is_lost: bool
) -> int:
    """Undo a move that did not come to its end: empty the new store of what was copied, open the old one again."""
    before = context.meta.get("psyqueue.ends", (None, None))
    ends = _checked(source or before[0], target or before[1])

    async def work(old: House, new: House) -> int:
        with ProgressLine() as line:
            await Mover(old, new, tell=line.tell).rollback()
        return _tell_rolled_back(surface, old)

    return asyncio.run(_reopen(surface, *ends) if is_lost else _with_houses(*ends, work))


async def _reopen(surface: Surface, source: str, target: str) -> int:
    async with _opened(source, may_create=False) as old:
        await reopen(old, address_of(target))
        return _tell_rolled_back(surface, old)


def _tell_rolled_back(surface: Surface, old: House) -> int:
    if surface.is_json:
        output.print_json({"ok": True, "rolled_back": True})
    else:
        click.echo(f"Rolled back: {old.address} works as before.")
    return DONE


def _checked(source: str | None, target: str | None) -> tuple[str, str]:
    """Raises ConfigError unless these are two stores."""
    if not source or not target:
        raise ConfigError("a move has two ends: give --from URL and --to URL, e.g. --from sqlite:./jobs.db")
    if address_of(source) == address_of(target):
        raise ConfigError(f"--from and --to are the same store, {address_of(source)}")
    return source, target


def address_of(url: str) -> str:
    """The store for people and for old clients: without password and without what only says how it is reached."""
    parsed = parse_url(url)
    file = sqlite_file(backend_at(url))
    if file is not None:
        return f"sqlite:{file}"
    identity = {name: parsed.options[name] for name in _IDENTITY if name in parsed.options}
    return parsed.shown + (f"?{urlencode(identity)}" if identity else "")


@contextlib.asynccontextmanager
async def _opened(url: str, *, may_create: bool) -> AsyncIterator[House]:
    backend = backend_at(url)
    if not may_create:
        backend = as_it_is(backend)
        await asyncio.to_thread(require_store, backend)
    await backend.connect()
    try:
        yield House(backend, address_of(url))
    finally:
        await backend.disconnect()


async def _with_houses(source: str, target: str, work: Callable[[House, House], Any]) -> int:
    async with _opened(source, may_create=False) as old, _opened(target, may_create=False) as new:
        code: int = await work(old, new)
        return code


# ── dry run ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def _dry_run(surface: Surface, source: str, target: str, selection: Selection, options: dict[str, Any]) -> int:
    async with _opened(source, may_create=False) as old:
        try:
            async with _opened(target, may_create=False) as new:
                plan = await make_plan(old, new, selection, is_merge=options["merge"])
        except StoreUnusable as exc:
            # Nothing is made by a dry run; what is not there is empty.
            plan = await make_plan(old, None, selection)
            plan.warnings.append(f"the destination is not there yet ({exc.message}): it would be made")
    if surface.is_json:
        output.print_json({**_document(plan), "ok": not plan.obstacles, "dry_run": True, "moved": 0})
    else:
        _show(plan, address_of(source), address_of(target))
    return NO if plan.obstacles else DONE


def _document(plan: Plan) -> dict[str, Any]:
    return {
        "queues": [
            {"queue": row.queue, "status": row.status, "source": row.source, "destination": row.destination}
            for row in plan.rows
        ],
        "things": plan.things,
        "obstacles": plan.obstacles,
        "warnings": plan.warnings,
    }


def _show(plan: Plan, source: str, target: str) -> None:
    click.echo(output.clean(f"{source} → {target}: {plan.jobs:,} jobs would move"))
    rows = [(row.queue, row.status, row.source, row.destination) for row in plan.rows]
    output.print_table(("queue", "status", "moves", "there now"), rows, empty="No jobs.")
    for part, count in plan.things.items():
        click.echo(f"{count:,} {part}")
    for text in plan.warnings:
        click.echo(output.clean(f"Note: {text}."))
    for text in plan.obstacles:
        click.echo(output.clean(f"In the way: {text}."))


# ── the move ──────────────────────────────────────────────────────────────────────────────────────────────────────────
async def _run(surface: Surface, source: str, target: str, selection: Selection, options: dict[str, Any]) -> int:
    wait_ms = to_ms("wait", options["wait"])
    async with _opened(source, may_create=False) as old:
        jobs = sum(sum(info.counts.values()) for info in await old.queues())
        question = f"Move up to {jobs:,} jobs from {old.address} to {address_of(target)} and close the old store?"
        await asyncio.to_thread(confirm, question, is_confirmed=options["yes"])
        async with _opened(target, may_create=True) as new:
            with ProgressLine() as line:
                mover = Mover(
                    old,
                    new,
                    selection,
                    is_merge=options["merge"],
                    is_take_over=options["take_over"],
                    wait_ms=wait_ms,
                    tell=line.tell,
                )
                verified = await mover.run()
    _report(surface, verified, address_of(source), address_of(target), selection)
    return DONE


def _report(surface: Surface, verified: Verified, source: str, target: str, selection: Selection) -> None:
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
        output.clean(f"Moved {moved:,} jobs, contents compared and equal. {closed if selection.is_whole else ''}")
    )
