"""What a person sees while the demo runs: a moving line on a terminal, else a line a second, nothing for JSON."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Protocol

import click
from msgspec import Struct

from psyqueue.cli.output import clean

BAR_WIDTH = 24
TERMINAL_MS = 100
PLAIN_MS = 1_000


class Progress(Struct, frozen=True, kw_only=True):
    """One look at the run. `jobs_per_second` over the last seconds; run times of all runs so far."""

    done: int
    total: int
    active: int
    pending: int
    workers: int
    elapsed_ms: float
    jobs_per_second: float
    run_ms_p50: float
    run_ms_p95: float


class Display(Protocol):
    def line(self, text: str = "") -> None:
        """Something that stays."""
        ...

    def progress(self, now: Progress) -> None:
        """The state of things; shown as often as it makes sense."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was found."""
        ...


def make_display(*, is_json: bool) -> Display:
    """The display that fits the standard output."""
    if is_json:
        return Silent()
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    return Terminal() if is_terminal else Plain()


class Silent:
    def line(self, text: str = "") -> None: ...
    def progress(self, now: Progress) -> None: ...
    def close(self) -> None: ...


class Plain:
    """One line a second: for logs and pipes."""

    def __init__(self) -> None:
        self._shown_at_ms = -PLAIN_MS * 1.0

    def line(self, text: str = "") -> None:
        click.echo(clean(text))

    def progress(self, now: Progress) -> None:
        if now.elapsed_ms - self._shown_at_ms >= PLAIN_MS or now.done == now.total:
            self._shown_at_ms = now.elapsed_ms
            click.echo(f"  {now.elapsed_ms / 1000:5.1f} s  {numbers(now)}")

    def close(self) -> None: ...


class Terminal:
    """One line that is drawn again in place; what stays is written above it."""

    def __init__(self) -> None:
        self._shown_at_ms = -TERMINAL_MS * 1.0
        self._drawn = ""
        self._write("\x1b[?25l")

    def line(self, text: str = "") -> None:
        self._write("\r\x1b[K" + clean(text) + "\n" + self._drawn)

    def progress(self, now: Progress) -> None:
        if now.elapsed_ms - self._shown_at_ms < TERMINAL_MS and now.done < now.total:
            return
        self._shown_at_ms = now.elapsed_ms
        filled = BAR_WIDTH * now.done // max(1, now.total)
        bar = "█" * filled + "░" * (BAR_WIDTH - filled)
        width = shutil.get_terminal_size().columns
        # One column stays free: a full line would make the terminal wrap, and the next drawing miss it.
        self._drawn = f"  {bar} {now.elapsed_ms / 1000:4.1f} s  {numbers(now)}"[: max(1, width - 1)]
        self._write("\r\x1b[K" + self._drawn)

    def close(self) -> None:
        self._drawn = ""
        self._write("\r\x1b[K\x1b[?25h")

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def numbers(now: Progress) -> str:
    """What matters most comes first: a narrow terminal cuts the rest."""
    return (
        f"{now.done:,} of {now.total:,} done, {now.active:,} active, {now.pending:,} pending · "
        f"{now.workers} workers · {now.jobs_per_second:,.0f} jobs/s · "
        f"run p50 {now.run_ms_p50:.1f} ms p95 {now.run_ms_p95:.1f} ms"
    )
