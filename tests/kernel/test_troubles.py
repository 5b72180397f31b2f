"""What a worker says of a trouble that lasts: each try is an event, the log gets it now and then."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from psyqueue.errors import NamespaceMoved, StoreUnavailable
from psyqueue.kernel.bus import EventBus
from psyqueue.kernel.troubles import AGAIN_MS, KEPT_MAX, Troubles
from support.kernel import FakeClock


class Told:
    def __init__(self) -> None:
        self.clock = FakeClock()
        bus = EventBus(self.clock)
        self.events: list[dict[str, Any]] = []
        bus.on("worker:error", lambda event: self.events.append(event.data))
        self.troubles = Troubles("w", bus)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    caplog.set_level(logging.WARNING)
    return Told()


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    return [(record.error, record.times) for record in caplog.records]  # type: ignore[attr-defined]


def test_the_same_trouble_is_logged_once_a_minute_with_how_often_it_was(told, caplog):
    moved = NamespaceMoved("redis://there")
    for _ in range(13):
        told.troubles.tell(moved)
        told.clock.passed_ms += AGAIN_MS / 12
    assert lines(caplog) == [(str(moved), 1), (str(moved), 12)]
    assert len(told.events) == 13


def test_another_trouble_is_logged_at_once(told, caplog):
    told.troubles.tell(NamespaceMoved("a"))
    told.troubles.tell(StoreUnavailable("gone"))
    told.troubles.tell(NamespaceMoved("a"))
    assert [text for text, _ in lines(caplog)] == [str(NamespaceMoved("a")), str(StoreUnavailable("gone"))]


def test_troubles_that_differ_each_time_are_not_kept_for_ever(told, caplog):
    for number in range(10 * KEPT_MAX):
        told.troubles.tell(StoreUnavailable(f"try {number}"))
    assert len(caplog.records) == 10 * KEPT_MAX
    assert len(told.troubles._repeats._told) <= KEPT_MAX
