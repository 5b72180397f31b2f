"""Commands that installed plugins add: found by the entry points `psyqueue.plugins`, through the kernel's own door."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

import click

from psyqueue import PsyQueue
from psyqueue.cli import output

GROUP = "psyqueue.plugins"
"""Entry points `name = "package:factory"`; `factory()` makes a plugin, whose `init` calls `kernel.command(...)`."""


@cache
def plugin_commands() -> dict[str, click.Command]:
    """By name. A plugin that fails is told about and left out: the other commands still work."""
    found: dict[str, click.Command] = {}
    for point in entry_points(group=GROUP):
        for command in _commands_of(point):
            name = str(command.name)
            if name in found:
                output.say(f"psyqueue: plugin {point.name!r} adds the command {name!r}, which another plugin has too")
            found.setdefault(name, command)
    return found


def _commands_of(point: EntryPoint) -> tuple[click.Command, ...]:
    try:
        return PsyQueue(name="psyqueue-cli").use(point.load()()).commands
    except Exception as exc:  # noqa: BLE001 - any code may run in a foreign plugin
        output.say(f"psyqueue: plugin {point.name!r} ({point.value}) is left out: {type(exc).__name__}: {exc}")
        return ()
