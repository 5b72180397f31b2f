"""Colours, on a terminal only: what they stand for is always said in words too."""

from __future__ import annotations

import os
from typing import Any

import click

from psyqueue.job import STATUSES

WHEN = ("auto", "always", "never")
_COLOURS: dict[str, str] = {
    "active": "cyan",
    "running": "cyan",
    "completed": "green",
    "open": "green",
    "ok": "green",
    "dead": "red",
    "late": "red",
    "FAILED": "red",
    "stalled": "red",
    "waiting": "yellow",
    "scheduled": "yellow",
    "paused": "yellow",
    "draining": "yellow",
    "cancelled": "bright_black",
    "idle": "bright_black",
}


def choose(context: click.Context, when: str) -> None:
    """For this command: what `--color` says, then NO_COLOR, then whether there is a terminal (click looks)."""
    root = context.find_root()
    if when == "auto":
        root.color = False if os.environ.get("NO_COLOR") else None
    else:
        root.color = when == "always"
    context.color = root.color


def note(context: click.Context, _: click.Parameter, value: str | None) -> None:
    """The callback of `--color`."""
    if value is not None:
        choose(context, value)


def is_word(text: str) -> bool:
    """Whether it is a status, or another word that has a colour."""
    return text in _COLOURS or text in STATUSES


def of_word(word: str, text: str) -> str:
    """`text` in the colour that `word` has, if any."""
    colour = _COLOURS.get(word)
    return text if colour is None else click.style(text, fg=colour)


def bold(text: str, **style: Any) -> str:
    return click.style(text, bold=True, **style)
