"""How answers look: plain tables for people, one JSON document for machines; no control characters of a job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click
import msgspec

CELL_CHARS_MAX = 60
_encode = msgspec.json.Encoder(decimal_format="string", enc_hook=str).encode


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    click.echo(msgspec.json.format(_encode(document), indent=2).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Columns as wide as their widest cell; `empty` where there is no row."""
    cells = [[cell(value) for value in row] for row in rows]
    if not cells:
        click.echo(empty)
        return
    heads = [column.upper() for column in columns]
    widths = [max(len(row[index]) for row in (heads, *cells)) for index in range(len(heads))]
    for row in (heads, *cells):
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """One `name  value` line each; what is None or empty is left out."""
    shown = [(name, value) for name, value in fields if value not in (None, "", (), {})]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name.ljust(width)}  {clean(text_of(value))}")


def say(text: str) -> None:
    """A line for people, on standard error: it never mixes with an answer."""
    click.echo(clean(text), err=True)


def cell(value: object) -> str:
    """The text of one table cell, short and on one line."""
    text = clean(text_of(value)).replace("\n", " ")
    return text if len(text) <= CELL_CHARS_MAX else text[: CELL_CHARS_MAX - 1] + "…"


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
