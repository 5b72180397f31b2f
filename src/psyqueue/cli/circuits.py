"""`psyqueue circuits ls|open|close`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import click
from msgspec.structs import asdict

from psyqueue.cli import output
from psyqueue.cli.existing import require_store
from psyqueue.cli.surface import DONE, NO, Surface, on_store, work_on
from psyqueue.clock import to_ms
from psyqueue.kernel.extension import Kernel
from psyqueue.plugins import CircuitView
from psyqueue.plugins.circuit_breaker.ledger import Ledger, all_circuits

_COLUMNS = ("name", "state", "until")


class _Visitor:
    """A plugin that lets the command into the kernel."""

    name = "circuits"

    def init(self, kernel: Kernel) -> None:
        self.kernel: Kernel = kernel


@click.group()
def circuits() -> None:
    """What runs wait for while it is down: look at circuit breakers, open and close them by hand."""


@circuits.command("ls")
@on_store
def circuits_ls(surface: Surface) -> int:
    """All circuits that runs came to."""

    async def work(_: Kernel, views: Sequence[CircuitView]) -> int:
        if surface.is_json:
            output.print_json({"items": [asdict(view) for view in views]})
        else:
            rows = ((view.name, view.state, view.until) for view in views)
            output.print_table(_COLUMNS, rows, empty="There are no circuits.")
        return DONE

    return _visit(surface, work)


@circuits.command("open")
@click.argument("name")
@click.option("--for", "duration", metavar="DURATION", required=True, help="How long, e.g. 30s, 5m, 24h.")
@on_store
def circuits_open(surface: Surface, name: str, duration: str) -> int:
    """Let runs wait; after that time the first one tries, as ever."""
    lasts_ms = to_ms("--for", duration, minimum_ms=1)
    return _change(surface, name, lambda ledger: ledger.open(lasts_ms))


@circuits.command("close")
@click.argument("name")
@on_store
def circuits_close(surface: Surface, name: str) -> int:
    """Let runs through; failures are counted from none."""
    return _change(surface, name, lambda ledger: ledger.close())


def _change(surface: Surface, name: str, change: Callable[[Ledger], Awaitable[object]]) -> int:
    async def work(kernel: Kernel, views: Sequence[CircuitView]) -> int:
        if name not in {view.name for view in views}:
            known = "`psyqueue circuits ls` lists those that are there"
            output.say(f"psyqueue: no run came to a circuit {name!r} yet; {known}")
            return NO
        await change(Ledger(kernel, name))
        (view,) = [view for view in await all_circuits(kernel.store) if view.name == name]
        if surface.is_json:
            output.print_json(asdict(view))
        else:
            output.print_fields(asdict(view).items())
        return DONE

    return _visit(surface, work)


def _visit(surface: Surface, work: Callable[[Kernel, Sequence[CircuitView]], Awaitable[int]]) -> int:
    """On a queue of our own: a command that looks does not create a store."""
    queue, visitor = surface.queue(), _Visitor()
    require_store(queue.get_exposed("backend"))
    queue.use(visitor)

    async def run(_: object) -> int:
        return await work(visitor.kernel, await all_circuits(visitor.kernel.store))

    return work_on(queue, run)
