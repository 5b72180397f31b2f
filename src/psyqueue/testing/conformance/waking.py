"""Waking and messages: `wait` ends when there may be something, `publish` reaches whoever listens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from psyqueue.backend import Effects
from psyqueue.errors import TooLarge
from psyqueue.testing.conformance.handle import LEASE_MS, PAGE_MAX, Store, ack, job, release

LONG_MS = 20_000
"""Longer than any test needs: a wait that ends sooner was woken."""


class Waiter:
    """A task that waits, and knows when the call has begun."""

    def __init__(self, store: Store, queues: Sequence[str] = (), job_ids: Sequence[str] = ()) -> None:
        self._store = store
        self._wanted = (queues, job_ids)
        self.has_begun: asyncio.Event = asyncio.Event()

    async def run(self) -> bool:
        self.has_begun.set()
        return await self._store.backend.wait(*self._wanted, LONG_MS)


async def woken(waiter: Waiter, act: Callable[[], Awaitable[object]]) -> bool:
    """Whether `act`, done after the wait began, ends it."""
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(waiter.run())
        await waiter.has_begun.wait()
        await act()
    return waiting.result()


# ── wait ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_wait_ends_in_vain_when_nothing_happens(store: Store) -> None:
    """A wait may be wrong, but one that is never in vain would be a busy loop."""
    await store.add("elsewhere", "other")
    assert not all([await store.backend.wait(("q",), ("nobody",), 5) for _ in range(3)])


async def test_an_enqueue_wakes_whoever_waits_for_its_queue(store: Store) -> None:
    assert await woken(Waiter(store, ("x", "q")), lambda: store.add("a"))


async def test_an_enqueue_with_priority_wakes_too(store: Store) -> None:
    """In the reference an idle worker never hears of a job with priority."""
    assert await woken(Waiter(store, ("q",)), lambda: store.add("a", priority=5))


async def test_an_enqueue_into_a_lane_wakes_too(store: Store) -> None:
    assert await woken(Waiter(store, ("q",)), lambda: store.add("a", lane="t"))


async def test_a_follow_up_wakes(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    follow_up = Effects(jobs=(job("b", "next"),))
    assert await woken(Waiter(store, ("next",)), lambda: store.ack(delivery, effects=follow_up))


async def test_a_released_job_wakes(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    assert await woken(Waiter(store, ("q",)), lambda: store.settle(release(delivery)))


async def test_a_closed_session_wakes(store: Store) -> None:
    await store.add("a")
    await store.dequeue_one()
    assert await woken(Waiter(store, ("q",)), store.close_session)


async def test_a_reap_wakes(store: Store) -> None:
    await store.add("a")
    await store.dequeue_one()
    await store.backend.reap(PAGE_MAX)
    await store.advance(LEASE_MS + 1)
    assert await woken(Waiter(store, ("q",)), lambda: store.backend.reap(PAGE_MAX))


async def test_a_promoted_job_wakes(store: Store) -> None:
    await store.add("a", delay_ms=10)
    await store.advance(10)
    assert await woken(Waiter(store, ("q",)), lambda: store.backend.promote(("q",), PAGE_MAX))


async def test_a_resumed_queue_wakes(store: Store) -> None:
    await store.add("a")
    await store.limit(paused_until_ms=-1)
    assert await woken(Waiter(store, ("q",)), store.limit)


@pytest.mark.parametrize("way", ["ack", "kill", "cancel"])
async def test_the_end_of_a_job_wakes_whoever_waits_for_it(store: Store, way: str) -> None:
    await store.add("a")
    if way == "cancel":
        assert await woken(Waiter(store, job_ids=("x", "a")), lambda: store.cancel("a"))
        return
    delivery = await store.dequeue_one()
    assert await woken(Waiter(store, job_ids=("x", "a")), lambda: getattr(store, way)(delivery))


async def test_the_end_of_one_job_of_a_batch_wakes(store: Store) -> None:
    await store.fill(50)
    deliveries = await store.dequeue(count=50)
    assert await woken(Waiter(store, job_ids=("q-0049",)), lambda: store.settle(*(ack(each) for each in deliveries)))


async def test_all_who_wait_are_woken(store: Store) -> None:
    waiters = [Waiter(store, ("q",)) for _ in range(5)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(waiter.run()) for waiter in waiters]
        for waiter in waiters:
            await waiter.has_begun.wait()
        # One signal may wake one waiter; a job for each of them wakes them all.
        await store.fill(5)
    assert all(task.result() for task in tasks)


async def test_a_wait_can_be_abandoned(store: Store) -> None:
    waiter = Waiter(store, ("q",))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await waiter.run()
    await store.add("a")
    assert await store.run() == "a"


# ── publish, subscribe ────────────────────────────────────────────────────────────────────────────────────────────────
READY = "ready"
AGAIN_MS = 20


class Listener:
    """Collects what a subscription brings, until it brought `count` bodies; those of the topic `ready` do not count."""

    def __init__(self, store: Store, *topics: str) -> None:
        self._store = store
        self._topics = topics
        self.has_begun: asyncio.Event = asyncio.Event()
        self.hears: asyncio.Event = asyncio.Event()

    async def run(self, count: int) -> list[tuple[str, bytes]]:
        iterator = self._store.backend.subscribe(self._topics)
        received: list[tuple[str, bytes]] = []
        following = asyncio.ensure_future(_next(iterator))  # noqa: TID251 - awaited below, in the same function
        self.has_begun.set()
        while True:
            each = await following
            self.hears.set()
            if each[0] != READY:
                received.append(each)
            if len(received) == count:
                break
            following = asyncio.ensure_future(_next(iterator))  # noqa: TID251 - as above
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
        return received


async def _next(iterator: AsyncIterator[tuple[str, bytes]]) -> tuple[str, bytes]:
    return await anext(iterator)


async def heard(
    listener: Listener, sender: Store, bodies: Sequence[tuple[str, bytes]], count: int
) -> list[tuple[str, bytes]]:
    """What the listener got, the topic `ready` apart; that one is sent until it arrives, since nothing says when."""
    async with asyncio.timeout(LONG_MS / 1000), asyncio.TaskGroup() as group:
        task = group.create_task(listener.run(count))
        await listener.has_begun.wait()
        while not listener.hears.is_set():
            await sender.backend.publish(READY, (b"",))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_MS / 1000):
                    await listener.hears.wait()
        for topic, body in bodies:
            await sender.backend.publish(topic, (body,))
    return task.result()


async def test_a_body_reaches_whoever_listens_to_its_topic(store: Store) -> None:
    sent = [("a", b"1"), ("x", b"no"), ("b", b"2"), ("a", b"\x00\xff")]
    got = await heard(Listener(store, "ready", "a", "b"), store, sent, 3)
    assert got == [("a", b"1"), ("b", b"2"), ("a", b"\x00\xff")]


async def test_bodies_of_one_call_arrive_in_their_order(store: Store) -> None:
    listener = Listener(store, "t")
    bodies = [b"%d" % number for number in range(20)]
    async with asyncio.timeout(LONG_MS / 1000), asyncio.TaskGroup() as group:
        task = group.create_task(listener.run(20))
        await listener.has_begun.wait()
        await store.backend.publish("t", bodies)
    assert task.result() == [("t", body) for body in bodies]


async def test_nobody_has_to_listen(store: Store) -> None:
    await store.backend.publish("nobody", (b"1",) * 500)
    await store.backend.publish("nobody", ())


async def test_a_body_is_bounded(store: Store) -> None:
    await store.backend.publish("t", (b"x" * 8_192,))
    with pytest.raises(TooLarge):
        await store.backend.publish("t", (b"x" * 8_193,))


async def test_a_subscription_ends_on_disconnect(other: Store) -> None:
    async def listen() -> list[bytes]:
        iterator = other.backend.subscribe(("t",))
        has_begun.set()
        return [body async for _, body in iterator]

    has_begun = asyncio.Event()
    async with asyncio.timeout(LONG_MS / 1000), asyncio.TaskGroup() as group:
        task = group.create_task(listen())
        await has_begun.wait()
        await other.backend.disconnect()
    assert task.result() == []
    await other.backend.connect()


async def test_a_client_that_leaves_ends_no_subscription_of_another(store: Store, other: Store) -> None:
    listener = Listener(store, "t")
    async with asyncio.timeout(LONG_MS / 1000), asyncio.TaskGroup() as group:
        task = group.create_task(listener.run(1))
        await listener.has_begun.wait()
        await other.backend.disconnect()
        await store.backend.publish("t", (b"1",))
    assert task.result() == [("t", b"1")]
