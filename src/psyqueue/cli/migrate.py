"""`psyqueue migrate`: all jobs of one store into another, in one command that may be killed and run again."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from psyqueue.cli import output
from psyqueue.cli.migrate_ends import End, checked_ends, end_options, opened, remember_ends, with_houses
from psyqueue.cli.migrate_live import migrate_finish, migrate_plan, migrate_run, migrate_status
from psyqueue.cli.migrate_report import document_of_plan, planned, show_plan, show_verified
from psyqueue.cli.progress import ProgressLine
from psyqueue.cli.surface import DONE, NO, Surface, common, confirm
from psyqueue.clock import to_ms
from psyqueue.moving import House, LiveMove, Mover, Selection, reopen
from psyqueue.words import counted


@click.group(invoke_without_command=True)
@end_options
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
    everything. Without a subcommand nothing runs meanwhile; `plan`, `run`, `status` and `finish` move while it works.
    """
    if context.invoked_subcommand is not None:
        context.obj = surface
        remember_ends(context, source, target)
        return None
    selection = Selection.of((name for name in options["include"].split(",") if name), options["queues"])
    work = _dry_run if options["dry_run"] else _run
    return asyncio.run(work(surface, *checked_ends(context, source, target), selection, options))


for _step in (migrate_plan, migrate_run, migrate_status, migrate_finish):
    migrate.add_command(_step)


@migrate.command("rollback")
@end_options
@click.option("--lost", "is_lost", is_flag=True, help="The new store is gone for good: only open the old one again.")
@click.pass_context
@common
def migrate_rollback(
    surface: Surface, context: click.Context, source: str | None, target: str | None, *, is_lost: bool
) -> int:
    """Undo a move that did not come to its end: empty the new store of what was copied, open the old one again.

    Of a move without a pause everything goes back to the old store, also what came to the new one since.
    """
    ends = checked_ends(context, source, target)

    async def work(old: House, new: House) -> int:
        with ProgressLine() as line:
            live = LiveMove(old, new, tell=line.tell)
            is_live = (await live.status()).step not in ("none", "over")
            await (live if is_live else Mover(old, new, tell=line.tell)).rollback()
        return _tell_rolled_back(surface, old)

    return asyncio.run(_reopen(surface, *ends) if is_lost else with_houses(*ends, work))


async def _reopen(surface: Surface, source: End, target: End) -> int:
    async with opened(source, may_create=False) as old:
        await reopen(old, target.shown)
        return _tell_rolled_back(surface, old)


def _tell_rolled_back(surface: Surface, old: House) -> int:
    if surface.is_json:
        output.print_json({"ok": True, "rolled_back": True})
    else:
        click.echo(f"Rolled back: {old.address} works as before.")
    return DONE


async def _dry_run(surface: Surface, source: End, target: End, selection: Selection, options: dict[str, Any]) -> int:
    plan = await planned(source, target, selection, is_merge=options["merge"])
    if surface.is_json:
        output.print_json({**document_of_plan(plan), "ok": not plan.obstacles, "dry_run": True, "moved": 0})
    else:
        show_plan(plan, source.shown, target.shown)
    return NO if plan.obstacles else DONE


async def _run(surface: Surface, source: End, target: End, selection: Selection, options: dict[str, Any]) -> int:
    wait_ms = to_ms("wait", options["wait"])
    async with opened(source, may_create=False) as old:
        jobs = sum(sum(info.counts.values()) for info in await old.queues())
        question = f"Move up to {counted(jobs, 'job')} from {old.address} to {target.shown} and close the old store?"
        await asyncio.to_thread(confirm, question, is_confirmed=options["yes"])
        async with opened(target, may_create=True) as new:
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
    show_verified(surface, verified, source.shown, target.shown, is_closed=selection.is_whole)
    return DONE
