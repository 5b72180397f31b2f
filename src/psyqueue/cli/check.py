"""`psyqueue check` and `psyqueue durability`: is the store whole, and what does it really promise?"""

from __future__ import annotations

import click
import msgspec

from psyqueue import PsyQueue
from psyqueue.backend import BackendAdapter
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.cli import output
from psyqueue.cli.surface import DONE, NO, Surface, on_store, with_queue

PROBLEMS_SHOWN_MAX = 1_000
"""A store with more broken promises needs no longer list."""


@click.command()
@on_store
def check(surface: Surface) -> int:
    """Look through all jobs for broken promises of the store itself. Exit code 1 if there are any."""

    async def work(queue: PsyQueue) -> int:
        problems, is_complete = await broken_invariants(queue.get_exposed("backend"), pages_max=None)
        if surface.is_json:
            output.print_json({"ok": not problems, "problems": problems, "complete": is_complete})
        else:
            click.echo("\n".join(map(output.clean, problems)) or "The store is whole.")
        return NO if problems else DONE

    return with_queue(surface, work)


@click.command()
@on_store
def durability(surface: Surface) -> int:
    """What accepted jobs survive on this store, as it is set up now."""

    async def work(queue: PsyQueue) -> int:
        facts = msgspec.structs.asdict(await queue.durability())
        if surface.is_json:
            output.print_json(facts)
            return DONE
        output.print_fields((name.replace("_", " "), value) for name, value in facts.items() if name != "warnings")
        for warning in facts["warnings"]:
            click.echo(f"warning: {output.clean(warning)}")
        return DONE

    return with_queue(surface, work)


async def broken_invariants(backend: BackendAdapter, *, pages_max: int | None) -> tuple[list[str], bool]:
    """Problems in words, and whether all jobs were looked at."""
    problems: list[str] = []
    cursor: str | None = None
    pages = 0
    while pages_max is None or pages < pages_max:
        found, cursor = await backend.check(cursor, ITEMS_MAX)
        problems += found
        pages += 1
        if cursor is None:
            return problems, True
        if len(problems) >= PROBLEMS_SHOWN_MAX:
            break
    return problems, False
