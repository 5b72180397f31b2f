"""How far something is: one line that is written anew on a terminal, now and then a line of its own elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol, Self

import click

from psyqueue.clock import Clock, SystemClock

_ON_TERMINAL_MS = 200
_IN_LOGS_MS = 10_000


class Step(Protocol):
    """What is told: as `psyqueue.moving.Progress`."""

    @property
    def doing(self) -> str: ...

    @property
    def done(self) -> int: ...

    @property
    def total(self) -> int: ...


class ProgressLine:
    """On standard error, with the rate and the time left; leaves nothing behind on a terminal."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._is_terminal = sys.stderr.isatty()
        self._every_ms = _ON_TERMINAL_MS if self._is_terminal else _IN_LOGS_MS
        self._told_at = self._clock.mono_ms()
        self._doing = ""
        self._since = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._is_terminal and self._doing:
            click.echo("\r\x1b[K", err=True, nl=False)

    def tell(self, step: Step) -> None:
        """May be called as often as one likes."""
        now = self._clock.mono_ms()
        if step.doing != self._doing:
            self._doing, self._since = step.doing, now
        elif now - self._told_at < self._every_ms:
            return
        self._told_at = now
        text = line_of(step, now - self._since)
        click.echo(f"\r\x1b[K{text}" if self._is_terminal else text, err=True, nl=not self._is_terminal)


def line_of(step: Step, elapsed_ms: float) -> str:
    """E.g. `copying 40,000 of 100,000 · 20,000/s · 3 s left`."""
    text = f"{step.doing} {step.done:,} of {step.total:,}"
    if step.done <= 0 or elapsed_ms <= 0:
        return text
    rate = step.done * 1_000 / elapsed_ms
    left_s = max(0, step.total - step.done) / rate
    return f"{text} · {rate:,.0f}/s · {left_s:,.0f} s left"
