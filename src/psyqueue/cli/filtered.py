"""Commands that take a filter as their words, as many as there are: `jobs ls status:dead -queue:mail*`."""

from __future__ import annotations

import re

import click

_NEGATED = re.compile(r"-[a-z_]+(\.[^\s:]+)?:", re.IGNORECASE)


class FilteredCommand(click.Command):
    """`-queue:mail` is a condition here, no row of options `-q -u -e …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Conditions that begin with a dash go behind `--`: their order means nothing."""
        with_value = {
            name
            for option in self.params
            if isinstance(option, click.Option) and not option.is_flag
            for name in option.opts
        }
        before = ["", *args]
        negated = [at for at, word in enumerate(args) if _NEGATED.match(word) and before[at] not in with_value]
        if not negated or "--" in args:
            return super().parse_args(ctx, args)
        rest = [word for at, word in enumerate(args) if at not in negated]
        return super().parse_args(ctx, [*rest, "--", *(args[at] for at in negated)])
