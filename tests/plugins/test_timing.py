"""When a schedule is due, as a pure function: expressions, zones, changed clocks, and long looks back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psyqueue import InvalidOption
from psyqueue.clock import to_at_ms, to_datetime
from psyqueue.plugins import upcoming
from psyqueue.plugins.scheduler.timing import NICKNAMES, Timing, read_timing

DAY_MS = 86_400_000


def ms(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> int:
    return to_at_ms("test", datetime(year, month, day, hour, minute, tzinfo=UTC))


def told(instants: list[int]) -> list[str]:
    return [to_datetime(at_ms).strftime("%d %H:%M") for at_ms in instants]


def cron(expression: str, tz: str = "UTC") -> Timing:
    return read_timing(cron=expression, every=None, tz=tz)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("*/15 * * * *", ["01 00:15", "01 00:30", "01 00:45"]),
        ("30 7 * * mon-fri", ["02 07:30", "03 07:30", "04 07:30"]),
        ("0 0 1 * *", ["01 00:00", "01 00:00", "01 00:00"]),
        ("@daily", ["02 00:00", "03 00:00", "04 00:00"]),
        ("@HOURLY", ["01 01:00", "01 02:00", "01 03:00"]),
        ("  5   4 *  * * ", ["01 04:05", "02 04:05", "03 04:05"]),
        ("30 0 0 * * *", ["01 00:00", "02 00:00", "03 00:00"]),
    ],
)
def test_expressions_are_read_as_cron_does(expression, expected):
    # 2026-03-01 is a Sunday.
    assert told(cron(expression).first_in(ms(2026, 3, 1), ms(2027, 3, 1), 3)) == expected


def test_what_falls_into_the_hour_that_is_left_out_runs_right_after_it():
    # Paris goes from 02:00 to 03:00 on the 29th, at 01:00 UTC.
    found = cron("30 2 * * *", "Europe/Paris").first_in(ms(2026, 3, 28), ms(2026, 4, 1), 3)
    assert told(found) == ["28 01:30", "29 01:00", "30 00:30"]


def test_what_falls_into_the_hour_that_comes_twice_runs_once():
    # Paris goes back from 03:00 to 02:00 on the 25th, at 01:00 UTC.
    found = cron("30 2 * * *", "Europe/Paris").first_in(ms(2026, 10, 24), ms(2026, 10, 28), 9)
    assert told(found) == ["24 00:30", "25 00:30", "26 01:30", "27 01:30"]


def test_what_is_hourly_runs_in_both_hours():
    found = cron("0 * * * *", "Europe/Paris").first_in(ms(2026, 10, 24, 23, 30), ms(2026, 10, 25, 2, 30), 9)
    assert told(found) == ["25 00:00", "25 01:00", "25 02:00"]


@pytest.mark.parametrize("minute", range(0, 180, 7))
def test_the_next_instant_is_always_later_while_clocks_go_back(minute):
    at_ms = ms(2026, 10, 25, 0, 0) + minute * 60_000
    following = cron("30 2 * * *", "Europe/Paris").next_after(at_ms)
    assert following is not None
    assert following > at_ms
    assert told([following]) == ["25 00:30" if minute < 30 else "26 01:30"]


def test_steps_are_counted_from_the_begin_of_1970():
    timing = read_timing(cron=None, every="90s", tz="UTC")
    assert timing.first_in(0, 400_000, 9) == [90_000, 180_000, 270_000, 360_000]
    assert timing.next_after(89_999) == 90_000
    assert timing.next_after(90_000) == 180_000


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("every", ["1s", "7m", "1h", "3d"])
@pytest.mark.parametrize("expression", [None, "*/7 * * * *", "0 12 * * sun", "0 0 29 2 *", "15 2,3 * * *"])
@given(
    after_ms=st.integers(ms(2020, 1, 1), ms(2030, 1, 1)), length_ms=st.integers(0, 3 * DAY_MS), count=st.integers(1, 5)
)
def test_the_last_instants_are_those_that_a_walk_from_the_begin_ends_with(
    every, expression, after_ms, length_ms, count
):
    timing = read_timing(
        cron=expression, every=None if expression else every, tz="Europe/Rome" if expression else "UTC"
    )
    until_ms = after_ms + length_ms // (40 if every == "1s" and not expression else 1)
    walked = timing.first_in(after_ms, until_ms, 100_000)
    assert timing.last_in(after_ms, until_ms, count) == walked[-count:]


def test_a_look_back_over_years_of_seconds_is_short():
    found = cron("* * * * * *").last_in(0, ms(2026, 1, 1), 1_000)
    assert found == [ms(2026, 1, 1) - 1_000 * back for back in range(999, -1, -1)]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "option cron=None: is missing, and so is every. Give one of them"),
        ({"cron": "* * * * *", "every": "5m"}, "comes with every"),
        ({"cron": ""}, "is no expression. Give minute, hour, day, month and weekday"),
        ({"cron": 5}, "is no expression"),
        ({"cron": "* * * *"}, "cannot be read: Wrong number of fields"),
        ({"cron": "61 * * * *"}, "cannot be read: Bad minute"),
        ({"cron": "@often"}, "is none of @yearly"),
        ({"cron": "0 0 31 2 *"}, "cannot be read: Bad day-of-month"),
        ({"cron": "* " * 200}, "is longer than 200 characters"),
        ({"cron": "0 7 * * *", "tz": "Europe/Atlantis"}, "is no time zone. Give one such as"),
        ({"cron": "0 7 * * *", "tz": "../etc/passwd"}, "is no time zone"),
        ({"cron": "0 7 * * *", "tz": "Europe"}, "is no time zone"),
        ({"cron": "0 7 * * *", "tz": None}, "is no time zone"),
        ({"cron": "0 7 * * *", "tz": ""}, "is no time zone"),
        ({"every": "5m", "tz": "Europe/Rome"}, "is for cron; every is counted in UTC"),
        ({"every": "10ms"}, "is less than 1000 ms"),
        ({"every": "soon"}, "is not a duration"),
        ({"every": 0}, "is less than 1000 ms"),
    ],
)
def test_what_cannot_be_is_refused_with_a_way_out(given, told):
    with pytest.raises(InvalidOption) as caught:
        upcoming(**given, after=datetime(2026, 1, 1, tzinfo=UTC))
    assert told in caught.value.message


def test_nicknames_are_expressions():
    assert [name for name, expression in NICKNAMES.items() if cron(name) != cron(expression)] == []


def test_upcoming_counts_from_an_instant():
    after = datetime(2026, 3, 28, 12, tzinfo=UTC)
    found = upcoming(cron="0 9 * * *", tz="Europe/Rome", after=after, count=2)
    assert found == [datetime(2026, 3, 29, 7, tzinfo=UTC), datetime(2026, 3, 30, 7, tzinfo=UTC)]
    assert upcoming(every=timedelta(hours=6), after=after, count=1) == [datetime(2026, 3, 28, 18, tzinfo=UTC)]
    with pytest.raises(InvalidOption, match="is no whole number from 1 to 1000"):
        upcoming(every="5m", after=after, count=0)
    with pytest.raises(InvalidOption, match="has no time zone"):
        upcoming(every="5m", after=datetime(2026, 1, 1))  # noqa: DTZ001 - that is what is refused
