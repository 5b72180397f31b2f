"""Sums that more than one peer needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from benchmarks.machine import Window, cpu_s_of
from benchmarks.spec import Facts

LIMIT_S = 480
"""A million jobs on a machine that others use took more than 240."""
GAP_S = 0.01
"""Between two enqueues of W3: the worker has long fallen asleep again."""
REST_S = 1.0
"""After the first job of a worker of W3, so that all that goes with its start is over."""
POLL_S = 0.005
"""Between two looks whether the tables of a queue have nothing left."""
WARM_UP = 100
"""Enqueues before those that are measured: connections are open, scripts are there."""


def enqueue_one_by_one(put: Callable[[int], object], n: int) -> Facts:
    """W2 of a peer whose enqueue blocks."""
    with Window() as window:
        for i in range(n):
            put(i)
    return window.rate(n)


def churned(rates: Sequence[float], size: int, ran: int) -> Facts:
    """Of rounds of `size` jobs each. Raises RuntimeError if a job did not run, or there was no second round."""
    if len(rates) < 2:
        raise RuntimeError("the time was over before the second round")
    if ran < size * len(rates):
        raise RuntimeError(f"only {ran} of {size * len(rates)} jobs ran")
    rounded = [round(rate) for rate in rates]
    return {"value": round(rates[-1] / rates[0], 3), "rates": rounded, "rounds": len(rates), "ran": ran}


def idle_cpu(seconds: float, *, pid: int = 0, server_pid: int = 0) -> Facts:
    """Percent of one core used while nothing happens, by this process or `pid`, and by the store's server.

    Nothing for 0 seconds.
    """
    if not seconds:
        return {}
    time.sleep(min(0.5, seconds))
    before = _cpu_s(pid), cpu_s_of(server_pid)
    with Window() as window:
        time.sleep(seconds)
    own_s, server_s = _cpu_s(pid) - before[0], cpu_s_of(server_pid) - before[1]
    found = {"idle_cpu_percent": round(100 * own_s / window.seconds, 2)}
    return found | {"idle_server_percent": round(100 * server_s / window.seconds, 2)} if server_pid else found


def _cpu_s(pid: int) -> float:
    return cpu_s_of(pid) if pid else time.process_time()


def quantiles(late_s: Sequence[float]) -> Facts:
    """Seconds to milliseconds; the p50 is the value."""
    ordered = sorted(late_s)
    found = {f"p{percent}_ms": round(1000 * ordered[len(ordered) * percent // 100], 3) for percent in (50, 95, 99)}
    return {"value": found["p50_ms"], **found, "samples": len(ordered)}
