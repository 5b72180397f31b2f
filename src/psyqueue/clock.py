"""Time: the only place where seconds, `datetime` and the process clock appear.

Inside psyqueue an instant is an `int` of milliseconds since the epoch (`*_at_ms`), a duration an `int` of milliseconds
(`*_ms`). The public API takes float seconds, `timedelta`, or text such as `"500ms" "30s" "5m" "24h" "7d"`; and aware
datetimes. What decides about jobs is the *store's* clock; the clock here serves the process (waits, run times, logs).
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeAlias

from psyqueue.errors import InvalidOption

Duration: TypeAlias = float | int | timedelta | str

DURATION_MS_MAX = 10 * 366 * 86_400_000
"""Ten years. Longer waits are typing errors (seconds given as milliseconds, for example)."""

_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_TEXT = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_HOW = 'Give seconds, a timedelta, or text such as "500ms", "30s", "5m", "24h", "7d"'


class Clock(Protocol):
    """The process's own time, replaceable in tests."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds since the epoch."""
        ...

    def mono_ms(self) -> float:
        """A clock that never goes back, milliseconds with fractions; only differences mean something."""
        ...

    async def sleep_ms(self, duration_ms: float) -> None: ...


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def mono_ms(self) -> float:
        return time.perf_counter_ns() / 1_000_000

    async def sleep_ms(self, duration_ms: float) -> None:
        await asyncio.sleep(duration_ms / 1000)


def to_ms(option: str, value: Duration, *, minimum_ms: int = 0) -> int:
    """The duration in whole milliseconds, rounded up so that a positive wait never becomes none.

    Raises InvalidOption naming `option` for a wrong type, text, sign, NaN, or more than ten years.
    """
    duration_ms = _parse_ms(option, value)
    # NaN compares as false with everything; a number too large for a float must not meet one.
    if not duration_ms <= DURATION_MS_MAX:
        raise InvalidOption(option, value, "is not a duration of at most ten years", _HOW)
    if duration_ms < minimum_ms:
        raise InvalidOption(option, value, f"is less than {minimum_ms} ms", _HOW)
    return math.ceil(duration_ms)


def _parse_ms(option: str, value: object) -> float:
    if isinstance(value, bool):
        raise InvalidOption(option, value, "is a bool, not a duration", _HOW)
    if isinstance(value, int | float):
        return value * 1000
    if isinstance(value, timedelta):
        return value / timedelta(milliseconds=1)
    if isinstance(value, str) and (match := _TEXT.fullmatch(value.strip())):
        return float(match[1]) * _UNIT_MS[match[2]]
    raise InvalidOption(option, value, "is not a duration", _HOW)


def to_at_ms(option: str, value: datetime) -> int:
    """The instant in milliseconds since the epoch.

    Raises InvalidOption for a naive datetime, another type, and what is in no year from 1 to 9999 of UTC: nobody could
    read it back.
    """
    if not isinstance(value, datetime):
        raise InvalidOption(option, value, "is not a datetime", "Give datetime.now(timezone.utc) + timedelta(...)")
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidOption(option, value, "has no time zone", "Give an aware datetime, e.g. with tzinfo=timezone.utc")
    at_ms = (value - _EPOCH) // timedelta(milliseconds=1)
    if not _FIRST_MS <= at_ms <= _LAST_MS:
        raise InvalidOption(option, value, "is outside of the years 1 to 9999 in UTC")
    return at_ms


def to_datetime(at_ms: int) -> datetime:
    """The instant as an aware datetime in UTC; the first or last one that there is for what is beyond."""
    return _EPOCH + timedelta(milliseconds=max(_FIRST_MS, min(at_ms, _LAST_MS)))


def span(duration_ms: float) -> str:
    """A duration as people say it, its two largest units: `350 ms`, `12 s`, `4 min 5 s`, `3 h`, `2 d 4 h`."""
    left = round(abs(duration_ms))
    if left < 1_000:
        return f"{left} ms"
    seconds = left // 1_000
    sizes = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    largest = next(at for at, (_, size) in enumerate(sizes) if seconds >= size)
    parts: list[str] = []
    for unit, size in sizes[largest : largest + 2]:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts)


def age(at: datetime, now_ms: int) -> str:
    """How far off an instant is, as people say it, in its largest unit: `3 min ago`, `in 2 h`, `now`."""
    passed_ms = now_ms - (at - _EPOCH) / timedelta(milliseconds=1)
    if abs(passed_ms) < 1_000:
        return "now"
    largest = " ".join(span(passed_ms).split()[:2])
    return f"{largest} ago" if passed_ms > 0 else f"in {largest}"


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_MS = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
_LAST_MS = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
