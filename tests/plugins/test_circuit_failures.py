"""What counts as a failure for a circuit breaker, and what does not."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from plugins import process_handlers
from plugins.circuits import Service
from psyqueue import (
    Cancel,
    Context,
    DeadLetter,
    JobCancelled,
    JobDead,
    JobNotFound,
    PsyQueue,
    Retry,
    Snooze,
)
from psyqueue.backends import memory
from psyqueue.plugins import CircuitBreaker, CircuitOpen


# ── what counts ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (ConnectionError("down"), True),
        (Retry(), True),
        (Retry("1h"), True),
        (Snooze("1h"), False),
        (Cancel("not needed"), False),
        (DeadLetter("no such card"), False),
        (LookupError("no such card"), False),
        (KeyError("a child of LookupError"), False),
        (ZeroDivisionError("fatal by type"), False),
        (JobNotFound("x"), False),
    ],
)
@pytest.mark.parametrize("way", ["raised", "returned", "in a block"])
async def test_what_counts_as_a_failure(error, counts, way):
    if way == "returned" and not isinstance(error, Retry | Snooze | Cancel | DeadLetter):
        return
    breaker = CircuitBreaker("payments", failures=1, handlers=["x"] if way != "in a block" else (), ignores=LookupError)
    q = PsyQueue().use(memory()).use(breaker)

    @q.handle("x", fatal=ZeroDivisionError)
    async def handler() -> Any:
        if way == "returned":
            return error
        if way == "raised":
            raise error
        async with breaker.call():
            raise error

    async with q.testing(raise_errors=False) as t:
        await handler.enqueue()
        await t.drain()
        assert (await breaker.state()).state == ("open" if counts else "closed")


class Hanging:
    """A breaker that one failure opens, and a handler that hangs in it, in real time."""

    def __init__(self, way: str) -> None:
        self.breaker = CircuitBreaker("payments", failures=1, handlers=["x"] if way != "block" else ())
        self.q = PsyQueue().use(memory()).use(self.breaker)
        self.began = asyncio.Event()
        hangs: Any = {"async": self.hang, "block": self.hang_in_a_block, "plain": self.hang_in_a_thread}[way]
        self.handler: Any = self.q.handle("x", hangs, max_retries=0)

    async def hang(self) -> None:
        self.began.set()
        await asyncio.Event().wait()

    async def hang_in_a_block(self) -> None:
        async with self.breaker.call():
            await self.hang()

    def hang_in_a_thread(self, ctx: Context) -> None:
        tick = threading.Event()
        while not ctx.cancelled:
            tick.wait(0.001)


@pytest.mark.parametrize("way", ["async", "plain", "block"])
async def test_a_timeout_counts(way):
    hanging = Hanging(way)
    async with hanging.q.testing(clock="real"):
        hanging.q.start_worker("x")
        job = await hanging.handler.options(timeout="50ms").enqueue()
        with pytest.raises(JobDead, match="longer than its timeout"):
            await job.result()
        assert (await hanging.breaker.state()).state == "open"


@pytest.mark.parametrize("way", ["async", "block"])
async def test_a_cancel_does_not_count(way):
    hanging = Hanging(way)
    async with hanging.q.testing(clock="real"):
        hanging.q.start_worker("x")
        job = await hanging.handler.enqueue()
        await hanging.began.wait()
        await job.cancel()
        with pytest.raises(JobCancelled):
            await job.result()
        assert (await hanging.breaker.state()).state == "closed"


async def test_one_that_tries_and_is_cancelled_leaves_its_place_to_the_next(shop):
    async with shop.testing() as t:
        await shop.breaker.open("1m")
        await t.advance("61s")
        began = asyncio.Event()

        async def call() -> None:
            async with shop.breaker.call():
                began.set()
                await asyncio.Event().wait()

        trying = asyncio.ensure_future(call())
        await began.wait()
        trying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trying
        async with shop.breaker.call():
            pass
        assert (await shop.breaker.state()).state == "closed"


@pytest.mark.parametrize(
    ("fn", "ignores", "state"),
    [
        (process_handlers.fail, (), "open"),
        (process_handlers.fail, OSError, "closed"),
        (process_handlers.snooze, (), "closed"),
    ],
)
async def test_what_comes_out_of_a_process_counts_by_its_type(fn, ignores, state):
    breaker = CircuitBreaker("payments", failures=1, handlers=["x"], ignores=ignores)
    q = PsyQueue().use(memory()).use(breaker)
    handler: Any = q.handle("x", fn, mode="process")
    async with q.testing(raise_errors=False):
        await handler.enqueue()
        await q.process_next("x")
        assert (await breaker.state()).state == state


async def test_a_handler_is_meant_by_its_aliases_too():
    breaker = CircuitBreaker("payments", failures=1, handlers=["charge"])
    q = PsyQueue().use(memory()).use(breaker)

    down = Service()
    down.error = ConnectionError("down")
    async with q.testing(raise_errors=False) as t:
        await q.enqueue("bill", queue="charge")  # by a release in which it was called so
        q.handle("charge", down.charge, aliases=["bill"])
        await t.drain()
        assert down.calls == 1
        assert (await breaker.state()).state == "open"


async def test_other_handlers_do_not_go_through_it(shop):
    @shop.q.handle("other", max_retries=0)
    async def other() -> None:
        raise ConnectionError("down")

    async with shop.testing() as t:
        for _ in range(5):
            await other.enqueue()
        await t.drain()
        assert (await shop.breaker.state()).state == "closed"


async def test_breakers_of_one_queue_know_nothing_of_each_other():
    one, two = CircuitBreaker("one", failures=1, handlers=["x"]), CircuitBreaker("two", failures=1)
    q = PsyQueue().use(memory()).use(one).use(two)
    seen: list[str] = []
    down = Service()
    down.error = ConnectionError("down")

    @q.handle("x", max_retries=0)
    async def handler() -> None:
        try:
            async with two.call():
                await down.charge()
        except ConnectionError:
            seen.append("failed")
        except CircuitOpen as exc:
            seen.append(exc.circuit)

    async with q.testing() as t:
        for _ in range(2):
            await handler.enqueue()
        await t.drain()
        assert [(await each.state()).state for each in (one, two)] == ["closed", "open"]
    assert seen == ["failed", "two"]
