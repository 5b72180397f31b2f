"""One queue object at module level, as applications have it, serves test after test and keeps nothing of them."""

from __future__ import annotations

import asyncio

import pytest

from psyqueue import AlreadyStopped, Kernel, LifecycleError, NotStarted, PsyQueue
from psyqueue.backends import memory, postgres, redis
from psyqueue.backends._memory import MemoryBackend
from psyqueue.errors import InvalidOption, InvalidState
from psyqueue.testing import Kit

# No test reaches these servers: there are none.
shop = PsyQueue(name="shop").use(postgres(host="nowhere.invalid"))
stock = PsyQueue(name="stock").use(redis(host="nowhere.invalid"))


@shop.handle("order.ship", queue="orders")
async def ship(number: int) -> str:
    return f"shipped {number}"


@stock.handle("stock.count")
def count() -> int:
    return 3


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_same_queue_serves_test_after_test(number):
    async with shop.testing() as t:
        job = await ship.enqueue(number)
        assert await t.drain() == 1
        assert t.job(job).result == f"shipped {number}"
        assert len(t.enqueued()) == 1
        assert await job.result(timeout="1s") == f"shipped {number}"


def test_same_queue_serves_one_event_loop_after_the_other():
    async def once() -> int:
        async with shop.testing() as t:
            await ship.enqueue(1)
            return await t.drain()

    assert [asyncio.run(once()) for _ in range(3)] == [1, 1, 1]


async def test_afterwards_the_queue_is_as_it_was():
    q = PsyQueue().use(postgres(host="nowhere.invalid"))
    before = (q._core.clock, q._core.chance, q._core.bus.clock, q.get_exposed("backend"))
    async with q.testing():
        assert q.is_running
        assert isinstance(q.get_exposed("backend"), MemoryBackend)
    assert before == (q._core.clock, q._core.chance, q._core.bus.clock, q.get_exposed("backend"))
    with pytest.raises(NotStarted):
        await q.enqueue("work")
    q.use(Starts("late"))  # the registry is open again


async def test_queue_that_ran_for_real_can_be_tested_afterwards_and_stays_stopped():
    q = PsyQueue().use(memory())
    q.handle("work", count.fn)
    async with q:
        pass
    async with q.testing() as t:
        await q.enqueue("work")
        assert await t.drain() == 1
    with pytest.raises(AlreadyStopped):
        await q.enqueue("work")


async def test_running_queue_is_refused():
    async with PsyQueue(name="busy").use(memory()) as q:
        with pytest.raises(LifecycleError, match="'busy' is running; a test starts it itself"):
            await q.testing().__aenter__()
        await q.enqueue("work")  # it goes on as if nothing had been


async def test_queue_without_a_store_needs_none():
    q = PsyQueue()
    q.handle("work", count.fn)
    async with q.testing() as t:
        await q.enqueue("work")
        assert await t.drain() == 1


async def test_lifespan_of_the_application_runs_inside_and_changes_nothing():
    async with shop.testing() as t:
        async with shop:
            await ship.enqueue(1)
        assert await t.drain() == 1
    assert not shop.is_running


async def test_kit_is_for_one_test():
    kit = shop.testing()
    async with kit:
        pass
    with pytest.raises(InvalidState, match=r"call q\.testing\(\) for each test"):
        await kit.__aenter__()


async def test_kit_says_that_it_was_not_entered():
    with pytest.raises(InvalidState, match="async with"):
        await shop.testing().drain()


async def test_kit_can_be_looked_at_after_its_end():
    async with shop.testing() as t:
        job = await ship.enqueue(7)
        await t.drain()
    assert t.job(job).result == "shipped 7"
    assert t.history.events == ["enqueued", "started", "completed"]


async def test_two_queues_are_tested_at_once():
    async with shop.testing() as one, stock.testing() as other:
        await ship.enqueue(1)
        counted = await count.enqueue()
        await one.advance("1h")
        assert [len(one.enqueued()), len(other.enqueued())] == [1, 1]
        assert other.job(counted).status == "pending"
        assert await other.drain() == 1
        assert one.now > other.now


class Starts:
    """A plugin that counts its starts and stops."""

    def __init__(self, name: str = "starts") -> None:
        self.name = name
        self.seen: list[str] = []

    def start(self) -> None:
        self.seen.append("start")

    def stop(self) -> None:
        self.seen.append("stop")


class Bringer(Starts):
    """Brings a store, and would connect something at its start."""

    provides = "backend"

    def init(self, kernel: Kernel) -> None:
        kernel.backend(MemoryBackend())


async def test_plugins_start_and_stop_with_each_test_but_not_the_one_that_brings_the_store():
    bringer, plugin = Bringer("bringer"), Starts()
    q = PsyQueue().use(bringer).use(plugin)
    for _ in range(2):
        async with q.testing():
            pass
    assert plugin.seen == ["start", "stop", "start", "stop"]
    assert bringer.seen == []
    async with q:
        pass
    assert bringer.seen == ["start", "stop"]


async def test_plugins_wrap_the_store_of_the_test():
    class Counts:
        name = "counts"

        def init(self, kernel: Kernel) -> None:
            kernel.wrap_backend(self.wrap)

        def wrap(self, inner):
            wrapped.append(inner)
            return inner

    wrapped: list[object] = []
    q = PsyQueue().use(postgres(host="nowhere.invalid")).use(Counts())
    async with q.testing():
        assert [type(each).__mro__[1] for each in wrapped] == [MemoryBackend]


async def test_start_that_fails_leaves_the_queue_as_it_was():
    class Fails:
        name = "fails"
        is_broken = True

        def start(self) -> None:
            if self.is_broken:
                raise RuntimeError("no")

    plugin = Fails()
    q = PsyQueue().use(memory()).use(plugin)
    with pytest.raises(RuntimeError, match="no"):
        await q.testing().__aenter__()
    plugin.is_broken = False
    async with q.testing():
        pass
    async with q:
        pass


async def test_subscriptions_of_a_test_go_with_it_and_handlers_stay():
    q = PsyQueue().use(memory())
    heard: list[str] = []
    async with q.testing() as t:
        q.events.on("job:*", lambda event: heard.append(event.type))
        late = q.handle("late", lambda: None)  # as a module that is imported by the first test that needs it
        await late.enqueue()
        await t.drain()
    seen = list(heard)
    assert seen == ["job:enqueued", "job:started", "job:completed"]
    async with q.testing() as t:
        await late.enqueue()
        assert await t.drain() == 1
    assert heard == seen


async def test_loop_is_left_as_it_was():
    loop = asyncio.get_running_loop()
    before = dict(vars(loop))
    async with shop.testing(), stock.testing():
        assert vars(loop).keys() - before.keys() == {"time", "call_at", "call_later"}
    assert vars(loop).keys() == before.keys()


async def test_error_in_a_test_comes_through_and_the_queue_is_free_again():
    with pytest.raises(ZeroDivisionError):
        async with shop.testing():
            _ = 1 / 0
    async with shop.testing():
        pass


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"clock": "fake"}, "clock='fake': is none of virtual, real"),
        ({"mode": "eager"}, "mode='eager': is none of manual, inline"),
        ({"patience": 0}, "patience=0: is less than 1 ms"),
        ({"raise_errors": "no"}, "raise_errors='no': is str, not bool"),
        ({"now": "today"}, "now='today': is not a datetime"),
    ],
)
def test_bad_options_are_refused_at_once(options, text):
    with pytest.raises(InvalidOption) as caught:
        shop.testing(**options)
    assert text in str(caught.value)


def test_kit_is_what_it_is_called():
    assert isinstance(shop.testing(), Kit)
