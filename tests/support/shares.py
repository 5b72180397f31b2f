"""The order of the tests of a parallel run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def slow_first(items: Sequence[T], is_slow: Callable[[T], bool], processes: int) -> list[T]:
    """Those that take long come first in the share of each process; the others keep their order.

    `--dist worksteal` begins with shares of equal size, each of neighbours. If the slow ones were all in the first of
    them, its process would still be busy with the last when the others have nothing left.
    """
    slow = [item for item in items if is_slow(item)]
    others = [item for item in items if not is_slow(item)]
    ordered: list[T] = []
    for number in range(processes):
        share = (len(items) - len(ordered)) // (processes - number)
        first = slow[number::processes]
        taken = max(0, share - len(first))
        ordered += [*first, *others[:taken]]
        del others[:taken]
    return ordered + others
