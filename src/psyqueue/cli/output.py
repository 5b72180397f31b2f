"""How answers look: plain tables for people, one JSON document for machines; no control characters of a job."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click
import msgspec

from psyqueue import clock
from psyqueue.cli import colour

CELL_CHARS_MAX = 60
CELL_CHARS_MIN = 6
"""A column is not made narrower than this to fit a terminal."""
_GAP = "  "
_encode = msgspec.json.Encoder(decimal_format="string", enc_hook=str).encode


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    click.echo(msgspec.json.format(_encode(document), indent=2).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Columns as wide as their widest cell, on a terminal no wider than it; `empty` where there is no row."""
    width = terminal_width()
    limits = [None if width is None or column == "id" else CELL_CHARS_MAX for column in columns]
    cells = [[cell(value, limit) for value, limit in zip(row, limits, strict=True)] for row in rows]
    if not cells:
        click.echo(empty)
        return
    click.echo("\n".join(table_lines(columns, cells, width=width)))


def table_lines(columns: Sequence[str], cells: Sequence[Sequence[str]], *, width: int | None) -> list[str]:
    """The head and a line for each row; in `width` characters, if that can be, by cutting long texts."""
    heads = [column.removesuffix("_at").upper().replace("_", " ") for column in columns]
    widths = [max(len(row[index]) for row in (heads, *cells)) for index in range(len(heads))]
    if width is not None:
        least = [
            widths[at] if head == "ID" or all(_is_whole(row[at]) for row in cells) else max(CELL_CHARS_MIN, len(head))
            for at, head in enumerate(heads)
        ]
        narrow(widths, least, width - len(_GAP) * (len(heads) - 1))
    lines = [_line([colour.bold(text) for text in _fitted(heads, widths)])]
    for row in cells:
        fitted = _fitted(row, widths)
        lines.append(_line([colour.of_word(text, shown) for text, shown in zip(row, fitted, strict=True)]))
    return lines


def narrow(widths: list[int], least: Sequence[int], room: int) -> None:
    """Take from the column that can give most, again and again, until all fit or none may give more."""
    while sum(widths) > room:
        widest = max(range(len(widths)), key=lambda at: widths[at] - least[at])
        if widths[widest] <= least[widest]:
            return
        widths[widest] -= 1


def _is_whole(text: str) -> bool:
    """What is wrong when it is cut: a number, a status."""
    return not text.strip("-.,0123456789") or colour.is_word(text)


def _fitted(texts: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Cut and padded, the last one not padded."""
    cut = [text if len(text) <= width else text[: width - 1] + "…" for text, width in zip(texts, widths, strict=True)]
    return [*(text.ljust(width) for text, width in zip(cut[:-1], widths[:-1], strict=True)), cut[-1]]


def _line(cells: Sequence[str]) -> str:
    return _GAP.join(cells).rstrip()


def terminal_width() -> int | None:
    """Of standard output; None where it is no terminal, so that `grep` finds what a narrow one would have cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """One `name  value` line each; what is None or empty is left out. Of an instant its age stands beside it."""
    shown = [(name, value) for name, value in fields if value not in (None, "", (), {})]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        beside = f" ({age(value)})" if isinstance(value, datetime) else ""
        text = clean(text_of(value))
        click.echo(f"{colour.bold(name.ljust(width))}  {colour.of_word(text, text)}{beside}")


def say(text: str) -> None:
    """A line for people, on standard error: it never mixes with an answer."""
    click.echo(clean(text), err=True)


def give_up() -> None:
    """Nothing more can be written to standard output: else the interpreter tries once more at its end, and fails."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def cell(value: object, chars_max: int | None = CELL_CHARS_MAX) -> str:
    """The text of one table cell, short and on one line; of an instant how long ago it was, or how long it takes.

    `chars_max` None: however long it is.
    """
    text = age(value) if isinstance(value, datetime) else clean(text_of(value)).replace("\n", " ")
    return text if chars_max is None or len(text) <= chars_max else text[: chars_max - 1] + "…"


def age(at: datetime) -> str:
    """`3 min ago`, `in 2 h`, by this machine's clock: for people only."""
    return clock.age(at, clock.SystemClock().now_ms())


def text_of(value: object) -> str:
    """As people read it: times in ISO without microseconds, other values as JSON."""
    match value:
        case None:
            return "-"
        case str():
            return value
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.isoformat(sep=" ", timespec="seconds")
        case int():
            return str(value)
        case _:
            return _encode(value).decode()


def clean(text: str) -> str:
    """Control characters made visible: a payload must not be able to steer a terminal."""
    return "".join(ch if ch.isprintable() or ch == "\n" else ch.encode("unicode_escape").decode() for ch in text)
