"""What was copied is there: counted by queue and status, and compared by content."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from hashlib import blake2b

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from psyqueue.backend import Moved, MovedJob, MovedKey, MovedLock, MovedRecord, MovedState
from psyqueue.errors import InvalidState

Group = tuple[str, str]
"""Queue and status of jobs; ("", part) of other things."""
Sums = dict[Group, tuple[int, int]]
"""Count and sum of digests of each group."""
_encode = msgspec.msgpack.Encoder().encode


class Verified(Struct, frozen=True):
    """`source`: what was read there to be copied. `target`: what was read back."""

    source: Sums
    target: Sums

    @property
    def ok(self) -> bool:
        """Every group has the same number of the same contents on both sides."""
        return self.source == self.target

    def differences(self) -> list[Group]:
        groups = sorted({*self.source, *self.target})
        return [group for group in groups if self.source.get(group) != self.target.get(group)]


def require_same(verified: Verified, source: str) -> None:
    """Raises InvalidState, with the way out, unless what was read at `source` is what was read back."""
    if not verified.ok:
        named = ", ".join(f"{queue or 'all queues'}/{status}" for queue, status in verified.differences()[:3])
        raise InvalidState(
            f"{named} differ in the new store. Nothing is lost: {source} still has all. Roll the move back (`psyqueue "
            "migrate rollback`) and tell us"
        )


class Tally:
    """Counts and sums digests, whatever the order: two stores that hold the same have the same sums.

    `has_needs`: one of the jobs is needed by another one.
    """

    def __init__(self) -> None:
        self.has_needs: bool = False
        self._sums: dict[Group, tuple[int, int]] = {}

    def add(self, items: Iterable[Moved], part: str) -> None:
        """All but what may run out."""
        found: defaultdict[Group, list[int]] = defaultdict(list)
        for item in items:
            if isinstance(item, MovedJob):
                self.has_needs = self.has_needs or item.is_needed
                found[item.job.queue, item.status].append(digest_of(item))
            elif not may_run_out(item):
                found["", part].append(digest_of(item))
        for group, digests in found.items():
            count, total = self._sums.get(group, (0, 0))
            self._sums[group] = (count + len(digests), total + sum(digests))

    def sums(self) -> Sums:
        return dict(self._sums)


def may_run_out(item: Moved) -> bool:
    """It may be gone by the time that its copy is looked for. Records and locks stay until somebody tidies up."""
    return isinstance(item, MovedKey) or (isinstance(item, MovedState) and item.left_ms is not None)


def digest_of(item: Moved) -> int:
    """Of all its content but numbers, which are each store's own, and what is left of a time, which goes by."""
    match item:
        case MovedJob():
            item = replace(item, number=0, ready_number=None)
        case MovedState():
            item = replace(item, age_ms=0)
        case MovedRecord(left_ms=int()) | MovedLock():
            item = replace(item, left_ms=0)
        case _:
            pass
    return int.from_bytes(blake2b(_encode(item), digest_size=16).digest())
