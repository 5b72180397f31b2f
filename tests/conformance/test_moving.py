"""Two stores that are one for a move keep every promise: before it begins, and when it is over."""

from __future__ import annotations

import pytest

from psyqueue.backend import BackendAdapter
from psyqueue.backends._memory import MemoryBackend
from psyqueue.moving import House, LiveMove
from psyqueue.moving.backend import MovingBackend
from psyqueue.testing.conformance import *  # noqa: F403 - the suite
from psyqueue.testing.conformance import BackendFactory

_OF_ONE_STORE = ("modes", "moving_house", "moving_rules")
_NOT_OURS = (
    # It is not moved itself, and says so.
    "test_a_repeated_call_is_answered_though_the_namespace_was_frozen",
    "test_a_repeated_change_of_mode_is_no_conflict_with_itself",
    "test_a_frozen_namespace_is_a_reason",
    "test_limits_of_lanes_are_read_in_every_mode_and_gone_when_dropped",
    "test_what_is_all_back_at_the_defaults_is_forgotten",
    # It listens to two stores in tasks of its own, which begin a turn of the loop later.
    "test_bodies_of_one_call_arrive_in_their_order",
)
for _name, _test in list(globals().items()):
    if _name in _NOT_OURS or (_name.startswith("test_") and _test.__module__.rpartition(".")[2] in _OF_ONE_STORE):
        del globals()[_name]


@pytest.fixture(params=["before", "over"])
def backend_factory(request: pytest.FixtureRequest) -> BackendFactory:
    async def fresh() -> BackendAdapter:
        old, new = MemoryBackend(test_clock=True), MemoryBackend(test_clock=True)
        if request.param == "over":
            await old.connect()
            await new.connect()
            move = LiveMove(House(old, "old"), House(new, "new"))
            await move.begin()
            await move.finish()
        backend = MovingBackend(old, new)
        await backend.connect()
        return backend

    return BackendFactory(fresh=fresh)
