"""Circuit breakers on every store: several processes share one circuit, and each change is made once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any, Self

import pytest

from psyqueue import PsyQueue
from psyqueue.plugins import CircuitBreaker, CircuitOpen

PROCESSES = 5


@pytest.fixture
def store(request):
    """Those that several processes can share."""
    return request.param


def pytest_generate_tests(metafunc):
    if "store" in metafunc.fixturenames:
        metafunc.parametrize("store", ["sqlite", "redis", "postgres"], indirect=True)


class Process:
    """What stands for one: a queue of its own on the store."""

    def __init__(self, q: PsyQueue, told: list[str], **options: Any) -> None:
        self.breaker = CircuitBreaker("payments", **options)
        self.q = q.use(self.breaker)
        q.events.on("circuit:*", lambda event: told.append(event.type.removeprefix("circuit:")))

    async def fail(self) -> None:
        with pytest.raises(ConnectionError):
            async with self.breaker.call():
                raise ConnectionError("down")


class Crowd:
    """So many at once; those inside stay until it is `over`."""

    def __init__(self, count: int) -> None:
        self.inside = 0
        self.all_asked, self.over = asyncio.Event(), asyncio.Event()
        self._left = count

    async def go_in(self, process: Process) -> None:
        try:
            async with process.breaker.call():
                self.inside += 1
                self._note()
                await self.over.wait()
        except CircuitOpen:
            self._note()

    def _note(self) -> None:
        self._left -= 1
        if not self._left:
            self.all_asked.set()


class Town:
    """Several processes on a store whose time is moved by hand; `told` is what any of them told."""

    def __init__(self, make: Callable[..., PsyQueue], **options: Any) -> None:
        self.told: list[str] = []
        self.processes = [Process(make(test_clock=True), self.told, **options) for _ in range(PROCESSES)]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for process in self.processes:
            await self._stack.enter_async_context(process.q)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def advance(self, by_ms: int) -> None:
        """Nobody takes for new what it saw before."""
        await self.processes[0].q.get_exposed("backend").advance_clock(by_ms)
        for process in self.processes:
            assert process.breaker._turnstile is not None
            process.breaker._turnstile.look_soon()

    async def state(self) -> str:
        return (await self.processes[-1].breaker.state()).state

    async def crowd(self, each: int, work: Callable[[Process], Awaitable[Any]]) -> list[Any]:
        """All processes at once, each `each` times."""
        return await asyncio.gather(*(work(process) for process in self.processes * each), return_exceptions=True)


async def test_failures_of_all_processes_open_it_once(make):
    async with Town(make, failures=PROCESSES) as town:
        for process in town.processes[1:]:
            await process.fail()
        assert (await town.state(), town.told) == ("closed", [])
        await town.processes[0].fail()
        assert (await town.state(), town.told) == ("open", ["opened"])


async def test_failures_that_come_together_open_it_once(make):
    async with Town(make, failures=3) as town:
        ends = await town.crowd(8, Process.fail)
        assert ends.count(None) >= 3, "those of a slow process may find it open already"
        assert (await town.state(), town.told) == ("open", ["opened"])


async def test_failures_go_out_of_the_window_by_the_clock_of_the_store(make):
    async with Town(make, failures=3, within="1m") as town:
        for _ in range(6):
            await town.crowd(1, lambda process: process.fail() if process is town.processes[0] else asyncio.sleep(0))
            await town.advance(30_000)
        assert town.told == []
        await town.processes[1].fail()
        await town.advance(29_000)
        await town.processes[2].fail()
        assert town.told == ["opened"]


@pytest.mark.parametrize("probes", [1, 3])
async def test_of_a_crowd_as_many_as_probes_get_through_a_half_open_circuit(make, probes):
    async with Town(make, probes=probes, reset="1m") as town:
        for _ in range(3):
            await town.processes[0].breaker.open()
            await town.advance(60_000)
            crowd = Crowd(PROCESSES * 6)
            ends = asyncio.ensure_future(town.crowd(6, crowd.go_in))
            await crowd.all_asked.wait()
            assert (crowd.inside, await town.state()) == (probes, "half-open")
            crowd.over.set()
            assert set(await ends) == {None}
            assert await town.state() == "closed"
    assert town.told == ["opened", "half-opened", "closed"] * 3


async def test_a_failure_of_one_that_tries_shuts_the_others_out(make):
    async with Town(make, probes=3, reset="1m") as town:
        one, two, three, *_ = town.processes
        await one.breaker.open()
        await town.advance(60_000)
        calls = [process.breaker.call() for process in (one, two, three)]
        for call in calls:
            await call.__aenter__()
        await calls[0].__aexit__(ConnectionError, ConnectionError("down"), None)
        assert await town.state() == "open"
        await calls[1].__aexit__(None, None, None)
        await calls[2].__aexit__(None, None, None)
        assert await town.state() == "open"
        for process in town.processes:
            with pytest.raises(CircuitOpen):
                await process.breaker.call().__aenter__()
    assert town.told == ["opened", "half-opened", "opened"]


async def test_what_began_before_it_opened_and_fails_after_it_closed_counts_for_nothing(make):
    async with Town(make, failures=3, within="1m") as town:
        one, two, *_ = town.processes
        late = one.breaker.call()
        await late.__aenter__()
        await one.breaker.open()
        await one.breaker.close()
        for by_ms in (59_000, 2_000):
            await two.fail()
            await town.advance(by_ms)
        await late.__aexit__(ConnectionError, ConnectionError("down"), None)
        await two.fail()
        assert await town.state() == "closed"
        await two.fail()
        assert await town.state() == "open"


async def test_whose_time_ran_out_has_lost_its_place(make):
    """It hangs, or its machine does: another one tries, and what the first one finds out at last is of no interest."""
    async with Town(make, reset="1m") as town:
        one, two, three, *_ = town.processes
        await one.breaker.open()
        await town.advance(60_000)
        hangs, goes_on = one.breaker.call(), two.breaker.call()
        await hangs.__aenter__()
        await town.advance(29_999)
        with pytest.raises(CircuitOpen):
            await two.breaker.call().__aenter__()
        await town.advance(1)
        await goes_on.__aenter__()
        await hangs.__aexit__(None, None, None)
        assert await town.state() == "half-open"
        with pytest.raises(CircuitOpen):
            await three.breaker.call().__aenter__()
        await goes_on.__aexit__(None, None, None)
        assert await town.state() == "closed"


async def test_a_clock_that_is_set_back_keeps_nobody_out(make):
    async with Town(make, reset="1m") as town:
        await town.processes[0].breaker.open()
        await town.advance(-86_400_000)
        with pytest.raises(CircuitOpen) as caught:
            await town.processes[1].breaker.call().__aenter__()
        assert caught.value.retry_after <= 60 + 30
        await town.advance(60_000)
        async with town.processes[1].breaker.call():
            pass
        assert await town.state() == "closed"


async def test_while_the_store_is_frozen_for_a_move_runs_get_through(make):
    async with Town(make, failures=1, reset="1m") as town:
        one, two, *_ = town.processes
        await one.breaker.open()
        await town.advance(60_000)
        kernel = one.breaker._kernel
        assert kernel is not None
        epoch = (await kernel.store.info()).epoch
        await kernel.operate(lambda op: kernel.store.set_mode(op, "frozen", epoch + 1))
        for process in (one, two):
            await process.fail()
        assert await town.state() == "open"


async def test_what_one_does_by_hand_the_others_see(make):
    async with Town(make) as town:
        one, two, *_ = town.processes
        await asyncio.gather(*(process.breaker.open("1h") for process in town.processes))
        with pytest.raises(CircuitOpen):
            await two.breaker.call().__aenter__()
        assert not any(isinstance(end, Exception) for end in await town.crowd(2, lambda each: each.breaker.close()))
        await town.advance(0)
        async with one.breaker.call(), two.breaker.call():
            pass
    assert town.told == ["opened", "closed"]


async def test_workers_of_all_processes_go_through_it_in_real_time(make):
    """The whole way, once: a service that is down, and comes back."""
    told: list[str] = []
    is_down = True
    paid = 0
    options = {"failures": 3, "reset": "100ms", "handlers": ["charge"]}
    processes = [Process(make(), told, **options) for _ in range(3)]
    opened, done = asyncio.Event(), asyncio.Event()

    async def charge() -> None:
        nonlocal paid
        if is_down:
            raise ConnectionError("down")
        paid += 1
        if paid == 60:
            done.set()

    async with AsyncExitStack() as stack:
        for process in processes:
            process.q.handle("charge", charge, queue="w", max_retries=50, backoff_base="10ms")
            process.q.events.on("circuit:opened", lambda _: opened.set())
            await stack.enter_async_context(process.q)
            process.q.start_worker("w")
        jobs = await processes[0].q.enqueue_bulk([{"name": "charge"}] * 60)
        await asyncio.wait_for(opened.wait(), 60)
        is_down = False
        await asyncio.wait_for(done.wait(), 60)
        for job in jobs:
            await job.result(60)
        assert (await processes[0].breaker.state()).state == "closed"
    assert set(pairwise(told)) <= {
        ("opened", "half-opened"),
        ("half-opened", "opened"),
        ("half-opened", "closed"),
        ("closed", "opened"),
    }
