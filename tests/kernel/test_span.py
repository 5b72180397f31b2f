"""Durations as people say them."""

from __future__ import annotations

import pytest

from psyqueue.clock import span

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


@pytest.mark.parametrize(
    ("duration_ms", "said"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1_000, "1 s"),
        (-12_400, "12 s"),
        (MINUTE, "1 min"),
        (4 * MINUTE + 5_000, "4 min 5 s"),
        (3 * HOUR + 59_000, "3 h"),
        (2 * DAY + 4 * HOUR + 59 * MINUTE, "2 d 4 h"),
        (400 * DAY, "400 d"),
    ],
)
def test_a_span_has_its_two_largest_units(duration_ms, said):
    assert span(duration_ms) == said
