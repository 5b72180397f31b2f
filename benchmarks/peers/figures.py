"""Sums that more than one peer needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from benchmarks.machine import Window
from benchmarks.spec import Facts


def enqueue_one_by_one(put: Callable[[int], object], n: int) -> Facts:
    """W2 of a peer whose enqueue blocks."""
    with Window() as window:
        for i in range(n):
            put(i)
    return window.rate(n)


def idle_cpu(seconds: float) -> Facts:
    """Percent of one core that this process uses while nothing happens; nothing for 0 seconds."""
    if not seconds:
        return {}
    time.sleep(min(0.5, seconds))
    with Window() as window:
        time.sleep(seconds)
    return {"idle_cpu_percent": round(100 * window.cpu_s / window.seconds, 2)}


def quantiles(late_s: Sequence[float]) -> Facts:
    """Seconds to milliseconds; the p50 is the value."""
    ordered = sorted(late_s)
    found = {f"p{percent}_ms": round(1000 * ordered[len(ordered) * percent // 100], 3) for percent in (50, 95, 99)}
    return {"value": found["p50_ms"], **found, "samples": len(ordered)}
