"""Numbers give jobs their order, and every store gives its own: newcomers are shifted behind those that are there."""

from __future__ import annotations

from msgspec.structs import replace

from psyqueue.backend import Moved, MovedJob, Numbers
from psyqueue.moving.house import House


async def numbers_of(house: House) -> Numbers:
    """The last ones that the store has given."""
    (numbers,) = (await house.backend.export_part("numbers", None, 1)).items
    assert isinstance(numbers, Numbers)
    return numbers


def shifted(item: Moved, base: Numbers) -> Moved:
    """As the destination takes it in, `base` being its last numbers before.

    Numbers of creation and of readiness alternate: a store that has one sequence for both keeps only one of them of
    some jobs, and no number may stand for two jobs.
    """
    if not isinstance(item, MovedJob):
        return item
    ready = None if item.ready_number is None else base.ready + 2 * item.ready_number + 1
    return replace(item, number=base.made + 2 * item.number, ready_number=ready)


def room_for(last: Numbers) -> Numbers:
    """What `shifted` takes of the destination's numbers, `last` being the source's last ones."""
    return Numbers(2 * last.made, 2 * last.ready + 1)


def is_moved(item: Moved, base: Numbers) -> bool:
    """Jobs that the destination had before have smaller numbers."""
    return not isinstance(item, MovedJob) or item.number > base.made
