"""Slow tests are dealt to all processes of a parallel run, as pytest-xdist hands them out."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler.worksteal import WorkStealingScheduling  # type: ignore[import-untyped]

from support.shares import slow_first


class Gateway:
    id = "any"


class Process:
    """As much of xdist's as a beginning needs."""

    gateway = Gateway()
    shutting_down = False

    def __init__(self) -> None:
        self.given: list[int] = []

    def send_runtest_some(self, numbers: list[int]) -> None:
        self.given += numbers


class Options:
    """As much of pytest's."""

    def __init__(self, processes: int) -> None:
        self.tx = [f"{processes}*popen"]

    def getvalue(self, name: str) -> Any:
        return getattr(self, name)


def dealt(tests: list[str], processes: int) -> list[list[str]]:
    """What each process begins with."""
    options: Any = Options(processes)
    scheduling = WorkStealingScheduling(options)
    made: list[Any] = [Process() for _ in range(processes)]
    for each in made:
        scheduling.add_node(each)
        scheduling.add_node_collection(each, tests)
    scheduling.schedule()
    return [[tests[number] for number in each.given] for each in made]


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
