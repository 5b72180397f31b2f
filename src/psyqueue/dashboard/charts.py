"""Small line charts as SVG: each line is a list of points, broken where nobody looked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

WIDTH: Final = 600
HEIGHT: Final = 80
GAP_MS: Final = 90_000
"""Of a longer time without a look nothing is known."""


class Chart(Struct, frozen=True):
    """`lines` are values of the attribute `points` of a polyline; `top` is the value at the upper edge."""

    title: str
    last: float | None
    top: float
    lines: tuple[str, ...]
    width: int = WIDTH
    height: int = HEIGHT


def chart(title: str, points: Sequence[tuple[float, float | None]]) -> Chart:
    """`points`: (milliseconds, value), in order; None is no value."""
    known = [(at_ms, value) for at_ms, value in points if value is not None]
    top = max((value for _, value in known), default=0) or 1
    first_ms, last_ms = (known[0][0], known[-1][0]) if known else (0.0, 0.0)
    span_ms = max(last_ms - first_ms, 1.0)
    lines: list[list[str]] = []
    before_ms: float | None = None
    for at_ms, value in known:
        if before_ms is None or at_ms - before_ms > GAP_MS:
            lines.append([])
        x, y = (at_ms - first_ms) / span_ms * WIDTH, HEIGHT - value / top * HEIGHT
        lines[-1].append(f"{x:.1f},{y:.1f}")
        before_ms = at_ms
    last = known[-1][1] if known else None
    return Chart(title, last, top, tuple(" ".join(each) for each in lines))
