"""When a schedule is due: instants computed from its definition alone, so that every process finds the same ones.

Expressions are read by cronsim, by the rules of Debian's cron where clocks are changed: what falls into the hour that
is left out runs right after it, what falls into the hour that comes twice runs once; hourly things run every hour.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from msgspec import Struct

from psyqueue.clock import Duration, to_at_ms, to_datetime, to_ms
from psyqueue.errors import InvalidOption

EVERY_MS_MIN = 1_000
EXPRESSION_LENGTH_MAX = 200
NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_HOW = 'Give minute, hour, day, month and weekday, such as "30 7 * * mon-fri"; six fields begin with the second'
_FIRST_LOOK_MS = 120_000
_WIDER = 24
"""Each look back is so many times longer than the one before: few look-ups, whether seconds or years lie between."""


class Timing(Struct, frozen=True, kw_only=True):
    """Either `cron`, read in the time zone `tz`, or every `every_ms`, counted from the begin of 1970 in UTC."""

    cron: str | None = None
    every_ms: int | None = None
    tz: str = "UTC"

    def next_after(self, at_ms: int) -> int | None:
        """The first instant that is later. None: there is none within fifty years."""
        return next(self._later_than(at_ms), None)

    def last_in(self, after_ms: int, until_ms: int, count: int) -> list[int]:
        """The last `count` instants later than `after_ms` and not later than `until_ms`, in order."""
        look_ms = _FIRST_LOOK_MS
        while True:
            start_ms = max(after_ms, until_ms - look_ms)
            found = deque(self._between(start_ms, until_ms), maxlen=count)
            if start_ms == after_ms or len(found) == count:
                return list(found)
            look_ms *= _WIDER

    def first_in(self, after_ms: int, until_ms: int, count: int) -> list[int]:
        """The first `count` of them."""
        return [at_ms for _, at_ms in zip(range(count), self._between(after_ms, until_ms), strict=False)]

    def _between(self, after_ms: int, until_ms: int) -> Iterator[int]:
        for at_ms in self._later_than(after_ms):
            if at_ms > until_ms:
                return
            yield at_ms

    def _later_than(self, at_ms: int) -> Iterator[int]:
        if self.every_ms is not None:
            return _multiples(self.every_ms, at_ms)
        assert self.cron is not None
        return _ticks(self.cron, _zone(self.tz), at_ms)


def read_timing(*, cron: Any, every: Duration | None, tz: Any) -> Timing:
    """What the caller gave, checked. Raises InvalidOption."""
    if (cron is None) == (every is None):
        what = "is missing, and so is every" if cron is None else "comes with every"
        raise InvalidOption("cron", cron, what, 'Give one of them: cron="0 7 * * *", or every="30s"')
    if every is not None:
        if tz != "UTC":
            raise InvalidOption("tz", tz, "is for cron; every is counted in UTC", "Leave it out")
        return Timing(every_ms=to_ms("every", every, minimum_ms=EVERY_MS_MIN))
    _read_zone(tz)
    return Timing(cron=_read_expression(cron), tz=tz)


def _read_expression(given: Any) -> str:
    if not isinstance(given, str) or not given.strip():
        raise InvalidOption("cron", given, "is no expression", _HOW)
    if len(given) > EXPRESSION_LENGTH_MAX:
        raise InvalidOption("cron", given[:40], f"is longer than {EXPRESSION_LENGTH_MAX} characters", _HOW)
    expression = " ".join(given.split())
    if expression.startswith("@"):
        if expression.lower() not in NICKNAMES:
            raise InvalidOption("cron", given, f"is none of {', '.join(NICKNAMES)}", _HOW)
        return NICKNAMES[expression.lower()]
    try:
        CronSim(expression, to_datetime(0))
    except CronSimError as exc:
        raise InvalidOption("cron", given, f"cannot be read: {exc}", _HOW) from exc
    return expression


def _read_zone(given: Any) -> None:
    try:
        _zone(given)
    except (KeyError, ValueError, OSError, TypeError, AttributeError) as exc:
        # A name of a folder, of a file elsewhere, of nothing: each is told by an error of its own.
        way_out = 'Give one such as "Europe/Rome". Where the system has no zones: pip install tzdata'
        raise InvalidOption("tz", given, "is no time zone", way_out) from exc


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)


def _multiples(every_ms: int, at_ms: int) -> Iterator[int]:
    next_ms = (at_ms // every_ms + 1) * every_ms
    while True:
        yield next_ms
        next_ms += every_ms


def _ticks(expression: str, zone: tzinfo, at_ms: int) -> Iterator[int]:
    last_ms = at_ms
    start: datetime = to_datetime(at_ms).astimezone(zone)
    for tick in CronSim(expression, start):
        tick_ms = to_at_ms("cron", tick)
        # In the hour that comes twice cronsim counts from its first pass, which may be over.
        if tick_ms > last_ms:
            last_ms = tick_ms
            yield tick_ms
