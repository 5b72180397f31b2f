"""Slow tests are dealt to all processes of a parallel run."""

from __future__ import annotations

import pytest

from support.shares import slow_first


def dealt(tests: list[str], processes: int) -> list[list[str]]:
    """What each process begins with: as `--dist worksteal` deals it, neighbours in shares as equal as can be."""
    shares: list[list[str]] = []
    rest = tests
    for number in range(processes, 0, -1):
        share = len(rest) // number
        shares.append(rest[:share])
        rest = rest[share:]
    return shares


@pytest.mark.parametrize("processes", [1, 2, 4, 7])
@pytest.mark.parametrize("count", [40, 41, 43])
def test_each_process_begins_with_its_part_of_the_slow_tests(processes, count):
    tests = [f"{'slow' if number % 4 == 3 else 'quick'}-{number:02}" for number in range(count)]
    ordered = slow_first(tests, lambda name: name.startswith("slow"), processes)
    assert sorted(ordered) == sorted(tests)
    for share in dealt(ordered, processes):
        slow = [name for name in share if name.startswith("slow")]
        assert share[: len(slow)] == slow
        assert len(slow) in (10 // processes, -(-10 // processes))


@pytest.mark.parametrize("processes", [1, 3])
def test_quick_tests_keep_their_order(processes):
    ordered = slow_first(list(range(20)), lambda number: number > 12, processes)
    assert [number for number in ordered if number <= 12] == list(range(13))


def test_more_slow_tests_than_shares_are_long_lose_none():
    assert sorted(slow_first(list(range(10)), lambda number: number > 0, 4)) == list(range(10))
