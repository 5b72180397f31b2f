"""`psyqueue migrate plan|run|status|finish|rollback`: the move without a pause, step by step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import click

from psyqueue.cli import output
from psyqueue.cli.migrate_ends import checked_ends, end_options, opened, with_houses
from psyqueue.cli.migrate_report import document_of_plan, planned, show_plan, show_verified
from psyqueue.cli.progress import ProgressLine
from psyqueue.cli.surface import DONE, NO, Surface, common, confirm
from psyqueue.clock import span, to_ms
from psyqueue.moving import House, LiveMove, Selection, Status

_UNATTENDED = (
    "No worker is there to drain the old store. Start one on the application with moving(old, new): "
    "`psyqueue worker MODULE:QUEUE`. Without any, `psyqueue migrate finish` copies what is left."
)
SHOWN = 3
"""Of the jobs that run."""
_NEXT = {
    "none": "No move is under way. Begin it with `psyqueue migrate run`.",
    "switching": "It was cut short while it began: go on with `psyqueue migrate run`.",
    "draining": (
        "New jobs go to the new store, workers drain the old one. When it is drained, or when you like: "
        "`psyqueue migrate finish`. To undo: `psyqueue migrate rollback`."
    ),
    "finishing": "Its end has begun. If nobody is at it: go on with `psyqueue migrate finish`.",
    "returning": "It is being rolled back: go on with `psyqueue migrate rollback`.",
    "emptying": "It is being rolled back: go on with `psyqueue migrate rollback`.",
    "over": "The move is over. Take the old store out of the application: use the new one alone.",
}


def _include(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--include", metavar="STATUS,…", default="", help="Ended jobs to take along: completed, cancelled."
    )(command)


@click.command("plan")
@end_options
@_include
@click.pass_context
@common
def migrate_plan(surface: Surface, context: click.Context, source: str, target: str, include: str) -> int:
    """Say what a move without a pause would do, and what stands in its way; change nothing."""
    ends = checked_ends(context, source, target)

    plan = asyncio.run(planned(*ends, _selection(include), is_live=True))
    if surface.is_json:
        output.print_json({**document_of_plan(plan), "ok": not plan.obstacles})
    else:
        show_plan(plan, *(end.shown for end in ends))
    return NO if plan.obstacles else DONE


@click.command("run")
@end_options
@_include
@click.option(
    "--drain",
    metavar="DURATION",
    default="10m",
    show_default=True,
    help="How long to wait until nothing is left to do.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
@common
def migrate_run(
    surface: Surface, context: click.Context, source: str, target: str, include: str, drain: str, *, yes: bool
) -> int:
    """Let new jobs go to the new store, and workers drain the old one.

    The application has to use `moving(old, new)` by now. Jobs that nobody will ask for soon move at once, the rest is
    left to the workers. May be killed and run again.
    """
    ends = checked_ends(context, source, target)
    drain_ms = to_ms("drain", drain)
    selection = _selection(include)

    async def work() -> int:
        async with opened(ends[0], may_create=False) as old:
            question = f"Let new jobs go to {ends[1].shown} from now on? The application has to use moving(old, new)"
            await asyncio.to_thread(confirm, question, is_confirmed=yes)
            async with opened(ends[1], may_create=True) as new:
                with ProgressLine() as line:
                    move = LiveMove(old, new, selection, tell=line.tell)
                    await move.begin()
                    early = await move.move_early() if (await move.status()).step == "draining" else 0
                    is_drained = await move.drain(drain_ms)
                return _tell(surface, await move.status(), {"early": early, "drained": is_drained})

    return asyncio.run(work())


@click.command("status")
@end_options
@click.pass_context
@common
def migrate_status(surface: Surface, context: click.Context, source: str, target: str) -> int:
    """Say how far a move without a pause is, and what to do next."""
    ends = checked_ends(context, source, target)

    async def work(old: House, new: House) -> int:
        return _tell(surface, await LiveMove(old, new).status(), {})

    return asyncio.run(with_houses(*ends, work))


@click.command("finish")
@end_options
@click.option(
    "--take-over", is_flag=True, help="Take running jobs from their workers; they run again in the new store."
)
@click.option(
    "--wait", metavar="DURATION", default="60s", show_default=True, help="How long running jobs may take to end."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
@common
def migrate_finish(
    surface: Surface, context: click.Context, source: str, target: str, wait: str, *, take_over: bool, yes: bool
) -> int:
    """Copy what is left, close the old store, and let workers take jobs from the new one.

    From its begin to its end no job is started; those that run end in the old store. May be killed and run again.
    """
    ends = checked_ends(context, source, target)
    wait_ms = to_ms("wait", wait)

    async def work(old: House, new: House) -> int:
        question = f"Close {old.address} for good?"
        await asyncio.to_thread(confirm, question, is_confirmed=yes)
        with ProgressLine() as line:
            move = LiveMove(old, new, is_take_over=take_over, wait_ms=wait_ms, tell=line.tell)
            verified = await move.finish()
        show_verified(surface, verified, old.address, new.address, is_closed=True)
        return DONE

    return asyncio.run(with_houses(*ends, work))


def _selection(include: str) -> Selection:
    return Selection.of(name for name in include.split(",") if name)


def _tell(surface: Surface, status: Status, facts: dict[str, Any]) -> int:
    groups = sorted({*status.source, *status.target})
    rows = [(queue, kind, status.source[queue, kind], status.target[queue, kind]) for queue, kind in groups]
    if surface.is_json:
        names = ("queue", "status", "source", "destination")
        document = {"ok": True, "step": status.step, **facts, "workers_in_source": list(status.workers)}
        document["running_in_source"] = [{"id": job_id, "for_ms": for_ms} for job_id, for_ms in status.running]
        modes = {"source_mode": status.source_mode, "destination_mode": status.target_mode}
        output.print_json({**document, **modes, "queues": [dict(zip(names, row, strict=True)) for row in rows]})
        return DONE
    output.print_table(("queue", "status", "old store", "new store"), rows, empty="No jobs.")
    if status.workers and status.step != "over":
        click.echo(output.clean(f"Workers in the old store: {', '.join(status.workers)}"))
    elif status.step == "draining" and any(count for (_, kind), count in status.source.items() if kind == "pending"):
        click.echo(_UNATTENDED)
    if status.running:
        click.echo(output.clean(_running(status)))
    click.echo(f"Step: {status.step}. {_NEXT[status.step]}")
    return DONE


def _running(status: Status) -> str:
    """Why the end is not there yet, or will not be at once."""
    named = ", ".join(f"{job_id} for {span(for_ms)}" for job_id, for_ms in status.running[:SHOWN])
    more = f" and {len(status.running) - SHOWN} more" if len(status.running) > SHOWN else ""
    words = f"Running in the old store: {named}{more}."
    if status.step not in ("draining", "finishing"):
        return words
    return (
        f"{words} `psyqueue migrate finish` waits for them, up to --wait, and starts nothing meanwhile; if they take "
        "longer, the workers go on draining. With --take-over they are taken from their workers, and run again in the "
        "new store."
    )
