"""The commands of `psyqueue`, as click has them."""

from __future__ import annotations

from collections.abc import Iterator

import click


def commands(group: click.Group, path: tuple[str, ...] = ("psyqueue",)) -> Iterator[tuple[str, click.Command]]:
    """Every command of ours with its full name, groups before what is in them."""
    for name, command in sorted(group.commands.items()):
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
