"""Arithmetic that every store shares, in whole numbers so that all of them agree to the last unit."""

from __future__ import annotations

TOKEN_UNITS = 60_000
"""One token of a bucket: a rate per minute then refills in whole units each millisecond."""

LANE_TURN = 1 << 20
"""Virtual time that one start costs a lane of weight 1. Source: start-time fair queueing, Goyal et al. 1996."""

REAPER_SILENCE_MS = 60_000
"""Nobody reaped for longer than this: the store stood still or its clock jumped, so every lease gets one of grace."""

TEST_EPOCH_MS = 1_800_000_000_000
"""Where the wall clock of a store with `test_clock` starts; it stands still and moves only by `advance_clock`."""

OPS_KEPT_MS = 86_400_000
CLOSED_SESSIONS_KEPT_MS = 86_400_000
FIRES_KEPT_MS = 90 * 86_400_000


def refilled(level: int, elapsed_ms: int, per_minute: int, full: int) -> int:
    """The level of a bucket after `elapsed_ms`, in units of 1/60,000 token."""
    return min(full, level + max(0, elapsed_ms) * per_minute)


def wait_ms(missing: int, per_minute: int) -> int:
    """Until a bucket has refilled `missing` units; one that never refills says a day."""
    return -(-missing // per_minute) if per_minute else 86_400_000
