"""`psyqueue completion bash|zsh|fish`: what a shell needs to complete our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from psyqueue.cli.surface import DONE

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_PSYQUEUE_COMPLETE"
"""By this click learns that a shell asks, and what."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print the script that makes a shell complete psyqueue's commands and options."""
    kind = get_completion_class(shell)
    assert kind is not None, shell
    root = context.find_root().command
    click.echo(kind(root, {}, "psyqueue", VARIABLE).source())
    return DONE
