"""The event bus: who hears what, and that no subscriber can hurt the work."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

import pytest

from psyqueue import ConfigError, Event, EventBus
from psyqueue.kernel.bus import BACKLOG_MAX
from support.kernel import FakeClock, Heard


@pytest.fixture
def bus(clock: FakeClock) -> EventBus:
    return EventBus(clock)


@pytest.mark.parametrize(
    ("pattern", "event", "matches"),
    [
        ("job:completed", "job:completed", True),
        ("job:completed", "job:completed:x", False),
        ("job:*", "job:completed", True),
        ("job:*", "kernel:started", False),
        ("job:*", "job:a:b", False),
        ("job:c*", "job:completed", True),
        ("job:c*", "job:dead", False),
        ("*:started", "worker:started", True),
        ("*:started", "worker:stopped", False),
        ("a:b:*", "a:b:c", True),
        ("a:*:c", "a:b:c", True),
        ("*", "job:completed", True),
        ("*", "a:b:c", True),
        ("job.completed", "job:completed", False),
        ("jo?:completed", "job:completed", False),
    ],
)
def test_pattern_matches_within_segments(bus, pattern, event, matches):
    heard = Heard(bus, pattern)
    assert bus.wants(event) is matches
    bus.publish(event, {})
    assert heard.types() == ([event] if matches else [])


def test_event_carries_type_time_and_data(bus, clock):
    got: list[Event] = []
    bus.on("*", got.append)
    bus.publish("job:completed", {"job_id": "1"})
    (event,) = got
    assert (event.type, event.data, event.at_ms) == ("job:completed", {"job_id": "1"}, clock.now_ms())
    assert event.at == datetime.fromtimestamp(clock.now_ms() / 1000, UTC)


def test_unsubscribed_hears_nothing_more_and_may_unsubscribe_twice(bus):
    heard: list[Event] = []
    off = bus.on("job:*", heard.append)
    bus.publish("job:dead", {})
    off()
    off()
    bus.publish("job:dead", {})
    assert len(heard) == 1
    assert not bus.wants("job:dead")


def test_new_subscriber_is_heard_after_an_event_nobody_wanted(bus):
    bus.publish("job:dead", {})
    heard = Heard(bus)
    bus.publish("job:dead", {})
    assert heard.types() == ["job:dead"]


def test_failing_subscriber_is_logged_and_counted_and_the_others_hear(bus, caplog):
    def fails(event):
        raise ValueError("mine")

    bus.on("*", fails)
    heard = Heard(bus)
    with caplog.at_level(logging.ERROR):
        bus.publish("job:dead", {})
    assert heard.types() == ["job:dead"]
    assert bus.failures == 1
    assert "mine" in caplog.text


def test_plain_function_that_returns_a_coroutine_is_reported(bus):
    async def late(event): ...

    def forgets(event):
        return late(event)

    bus.on("*", forgets)
    bus.publish("job:dead", {})
    assert bus.failures == 1


async def test_async_subscriber_hears_in_order_beside_the_work(bus):
    heard = []

    async def slow(event):
        await asyncio.sleep(0)
        heard.append(event.data["n"])

    bus.on("*", slow)
    for n in range(5):
        bus.publish("x:y", {"n": n})
    assert heard == []
    await bus.drain(5000)
    assert heard == [0, 1, 2, 3, 4]


async def test_async_subscriber_that_fails_hears_the_next_event(bus):
    heard = []

    async def sometimes(event):
        heard.append(event.data["n"])
        if event.data["n"] == 0:
            raise ValueError("first")

    bus.on("*", sometimes)
    bus.publish("x:y", {"n": 0})
    bus.publish("x:y", {"n": 1})
    await bus.drain(5000)
    assert heard == [0, 1]
    assert bus.failures == 1


async def test_stuck_async_subscriber_loses_the_oldest_events_and_they_are_counted(bus):
    heard = []
    go_on = asyncio.Event()

    async def stuck(event):
        await go_on.wait()
        heard.append(event.data["n"])

    bus.on("*", stuck)
    for n in range(BACKLOG_MAX + 10):
        bus.publish("x:y", {"n": n})
    assert bus.dropped == 10
    go_on.set()
    await bus.drain(5000)
    assert heard == list(range(10, BACKLOG_MAX + 10))


async def test_drain_does_not_wait_for_a_subscriber_that_hangs(bus):
    async def hangs(event):
        await asyncio.Event().wait()

    bus.on("*", hangs)
    bus.publish("x:y", {})
    await bus.drain(1)


@pytest.mark.parametrize(
    ("pattern", "fn"),
    [("", print), (None, print), ("job:*", None), ("job:*", lambda: None), ("job:*", lambda a, b: None)],
)
def test_wrong_subscription_is_refused(bus, pattern, fn):
    with pytest.raises(ConfigError, match="event"):
        bus.on(pattern, fn)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("job:compleated", "no event 'job:compleated'; there are job:enqueued, .*job:completed"),
        ("worker:*:x", "there are worker:started, worker:stopped, worker:error"),
    ],
)
def test_event_of_ours_that_never_comes_is_refused_with_what_there_is(bus, pattern, text):
    with pytest.raises(ConfigError, match=text):
        bus.on(pattern, print)
    bus.publish("job:completed", {})
    assert not bus.wants("job:completed"), "nothing of it was kept"
