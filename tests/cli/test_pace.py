"""A pace: how much at a time, and how long it waits in between, on a clock moved by hand."""

from __future__ import annotations

import pytest

from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.operating.pace import Pace, read_pace
from support.kernel import FakeClock


@pytest.mark.parametrize(
    ("text", "step"), [("1/s", 1), ("10/s", 2), ("1000/s", 200), ("100000/s", ITEMS_MAX), ("60/m", 1), ("3/h", 1)]
)
def test_a_fast_pace_goes_in_larger_steps(text, step):
    pace = read_pace(text)
    assert pace is not None
    assert pace.step == step


async def test_the_waits_add_up_to_the_rate_whatever_the_work_takes():
    clock = FakeClock()
    pace = Pace(10 / 1000, clock)
    for _ in range(5):
        clock.passed_ms += 30
        await pace.keep(2)
    assert clock.passed_ms == 30 + 5 * 200


async def test_work_that_is_slower_than_the_rate_waits_for_nothing():
    clock = FakeClock()
    pace = Pace(10 / 1000, clock)
    await pace.keep(1)
    clock.passed_ms += 1_000
    slept = len(clock.slept)
    await pace.keep(1)
    assert len(clock.slept) == slept
