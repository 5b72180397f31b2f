"""Job ids: made by the client, never twice, in the order of making."""

from __future__ import annotations

import itertools
from uuid import UUID

from psyqueue.ids import _IdSource


def test_ids_are_uuids_of_version_7_that_sort_by_making():
    source = _IdSource()
    made = [source.next() for _ in range(50_000)]
    assert sorted(set(made)) == made
    for each in made:
        parsed = UUID(each)
        assert (str(parsed), parsed.version, parsed.variant) == (each, 7, "specified in RFC 4122")


def test_the_lower_part_of_the_counter_carries_into_the_upper_one():
    source = _IdSource()
    source.next()
    source._at_ms += 60_000  # the clock is behind: only the counter tells ids apart
    source._counter = 0x3FFD | source._counter & ~0x3FFF
    made = [source.next() for _ in range(4)]
    assert sorted(set(made)) == made
    low = [int(each[19:23], 16) & 0x3FFF for each in made]
    assert low == [0x3FFE, 0x3FFF, 0, 1]
    high = [int(each[15:18], 16) for each in made]
    assert [after - before for before, after in itertools.pairwise(high)] == [0, 1, 0]


def test_a_counter_that_is_used_up_goes_on_in_the_next_millisecond():
    source = _IdSource()
    source.next()
    source._at_ms += 60_000
    source._start(source._at_ms)
    at_ms = source._at_ms
    source._counter = (1 << 26) - 2
    source._carry()
    made = [source.next() for _ in range(3)]
    assert sorted(set(made)) == made
    assert [int(each[:8] + each[9:13], 16) - at_ms for each in made] == [0, 1, 1]
