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
    """As the destination takes it in, `base` being its last numbers before."""
    if not isinstance(item, MovedJob):
        return item
    ready = None if item.ready_number is None else item.ready_number + base.ready
    return replace(item, number=item.number + base.made, ready_number=ready)


def is_moved(item: Moved, base: Numbers) -> bool:
    """Jobs that the destination had before have smaller numbers."""
    return not isinstance(item, MovedJob) or item.number > base.made
