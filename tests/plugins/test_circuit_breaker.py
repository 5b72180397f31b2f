"""Circuit breakers in the time of a test: what opens them, who gets through, what becomes of jobs, what it costs."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from datetime import timedelta
from enum import StrEnum
from typing import Any

import pytest

from plugins import process_handlers
from psyqueue import (
    Cancel,
    ConfigError,
    Context,
    DeadLetter,
    InvalidOption,
    InvalidState,
    JobCancelled,
    JobDead,
    JobNotFound,
    NotStarted,
    PsyQueue,
    Retry,
    Snooze,
    StoreUnavailable,
)
from psyqueue.backend import Effects, StateWrite
from psyqueue.backends import memory
from psyqueue.plugins import CircuitBreaker, CircuitOpen, SyncCircuitBreaker
from psyqueue.plugins.circuit_breaker import turnstile

CALLS = {"write_state", "read_state", "scan_state", "info"}


class Service:
    """What a handler depends on: down as long as `error` is set. `calls` reached it."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.calls = 0

    async def charge(self) -> str:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return "paid"


class Counting:
    """Counts the calls of the store that a breaker makes; with `is_away` set they fail, with `hangs` they never end."""

    name = "counting"

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.is_away = False
        self.hangs = False

    def init(self, kernel: Any) -> None:
        kernel.wrap_backend(lambda inner: Wrapped(inner, self))

    def take(self) -> dict[str, int]:
        """What was counted since the last time."""
        taken, self.calls = dict(self.calls), Counter()
        return taken


class Wrapped:
    def __init__(self, inner: Any, counting: Counting) -> None:
        self._inner, self._counting = inner, counting

    def __getattr__(self, verb: str) -> Any:
        call = getattr(self._inner, verb)
        if verb not in CALLS:
            return call

        async def counted(*given: Any, **named: Any) -> Any:
            self._counting.calls[verb] += 1
            if self._counting.is_away:
                raise StoreUnavailable("it is away", "refused")
            if self._counting.hangs:
                await asyncio.Event().wait()
            return await call(*given, **named)

        return counted


class Shop:
    """A queue whose handler `charge` goes through the breaker `payments`."""

    def __init__(self, **options: Any) -> None:
        self.service = Service()
        self.breaker = CircuitBreaker("payments", **{"failures": 3, "handlers": ["charge"], **options})
        self.counting = Counting()
        self.q = PsyQueue().use(memory()).use(self.breaker).use(self.counting)
        self.charge = self.q.handle("charge", self.service.charge, max_retries=0)
        self.told: list[str] = []

    def listen(self) -> None:
        self.q.events.on("circuit:*", lambda event: self.told.append(event.type.removeprefix("circuit:")))

    def testing(self) -> Any:
        return self.q.testing(raise_errors=False)

    async def run(self, count: int = 1) -> None:
        """Enqueue so many jobs, and run each once."""
        await self.q.enqueue_bulk([self.charge.build() for _ in range(count)])
        for _ in range(count):
            await self.q.process_next("charge")


@pytest.fixture
def shop() -> Shop:
    return Shop()


# ── the life of a circuit ─────────────────────────────────────────────────────────────────────────────────────────────
async def test_failures_open_it_a_run_that_tries_closes_it_and_no_job_is_lost(shop):
    async with shop.testing() as t:
        shop.listen()
        shop.service.error = ConnectionError("down")
        await shop.run(3)
        assert (await shop.breaker.state()).state == "open"
        jobs = [await shop.charge.enqueue() for _ in range(20)]
        await t.advance("20s")
        assert shop.service.calls == 3
        assert {(t.job(job).status, t.job(job).attempt) for job in jobs} == {("scheduled", 0)}
        shop.service.error = None
        await t.advance("1m")
        assert {t.job(job).result for job in jobs} == {"paid"}
        assert {t.job(job).attempt for job in jobs} == {1}
    assert shop.told == ["opened", "half-opened", "closed"]


async def test_a_run_that_tries_and_fails_opens_it_again(shop):
    """It is a run, and has used an attempt; those that were put off have not."""
    async with shop.testing() as t:
        shop.listen()
        shop.service.error = ConnectionError("down")
        await shop.run(3)
        jobs = [await shop.charge.options(max_retries=99).enqueue() for _ in range(10)]
        await t.advance("10m")
        tries = shop.service.calls - 3
        assert 600 / 60 <= tries <= 600 / 30
        assert {t.job(job).status for job in jobs} == {"scheduled"}
        assert sum(t.job(job).attempt for job in jobs) == tries
        assert set(shop.told[1:]) == {"half-opened", "opened"}
        shop.service.error = None
        await t.advance("10m")
        assert {t.job(job).status for job in jobs} == {"completed"}
    assert shop.told[-1] == "closed"


async def test_failures_count_within_their_window_alone(shop):
    async with shop.testing() as t:
        shop.service.error = ConnectionError("down")
        for _ in range(20):
            await shop.run()
            await t.advance("31s")
        assert (await shop.breaker.state()).state == "closed"
        for _ in range(3):
            assert (await shop.breaker.state()).state == "closed"
            await shop.run()
            await t.advance("29s")
        assert (await shop.breaker.state()).state == "open"


async def test_successes_between_failures_do_not_hide_them(shop):
    async with shop.testing():
        for number in range(5):
            shop.service.error = ConnectionError("down") if number % 2 == 0 else None
            await shop.run()
        assert (await shop.breaker.state()).state == "open"


async def test_failures_of_before_do_not_count_once_it_has_closed():
    shop = Shop(within="1h")
    async with shop.testing() as t:
        shop.service.error = ConnectionError("down")
        await shop.run(3)
        shop.service.error = None
        await shop.charge.enqueue()
        await t.advance("1m")
        shop.service.error = ConnectionError("down")
        await shop.run(2)
        assert (await shop.breaker.state()).state == "closed"
        await shop.run()
        assert (await shop.breaker.state()).state == "open"


async def test_a_call_that_began_before_it_opened_and_fails_late_counts_for_nothing(shop):
    """Nor does one that ends well close it."""
    async with shop.testing():
        error = ConnectionError("down")
        gates = [asyncio.Event() for _ in range(4)]

        async def call(number: int) -> None:
            async with shop.breaker.call():
                await gates[number].wait()
                if number:
                    raise error

        slow = [asyncio.ensure_future(call(number)) for number in range(4)]
        await asyncio.sleep(0)
        shop.service.error = error
        await shop.run(3)
        before = await shop.breaker.state()
        with pytest.raises(CircuitOpen):
            await shop.breaker.call().__aenter__()
        shop.counting.take()
        for gate in gates:
            gate.set()
        assert await asyncio.gather(*slow, return_exceptions=True) == [None, error, error, error]
        assert shop.counting.take() == {}
        assert await shop.breaker.state() == before


async def test_as_many_as_probes_get_through_while_it_is_half_open():
    shop = Shop(probes=2)
    async with shop.testing() as t:
        await shop.breaker.open("1m")
        await t.advance("61s")
        first, second = shop.breaker.call(), shop.breaker.call()
        await first.__aenter__()
        await second.__aenter__()
        for _ in range(3):
            with pytest.raises(CircuitOpen):
                await shop.breaker.call().__aenter__()
        with pytest.raises(CircuitOpen) as caught:
            await shop.breaker.call().__aenter__()
        assert 1 <= caught.value.retry_after <= 16
        assert (await shop.breaker.state()).state == "half-open"
        await first.__aexit__(None, None, None)
        assert (await shop.breaker.state()).state == "closed"
        await second.__aexit__(ConnectionError, ConnectionError("late"), None)
        assert (await shop.breaker.state()).state == "closed"


async def test_one_that_tries_for_long_keeps_its_place(shop):
    async with shop.testing() as t:
        await shop.breaker.open("1m")

        @shop.q.handle("slow", queue="charge")
        async def slow() -> None:
            async with shop.breaker.call():
                await asyncio.sleep(600)

        await slow.options(delay="1m").enqueue()
        await t.advance("5m")
        with pytest.raises(CircuitOpen):
            await shop.breaker.call().__aenter__()
        await t.advance("6m")
        assert (await shop.breaker.state()).state == "closed"


async def test_one_that_tries_and_says_nothing_leaves_its_place_to_the_next(shop):
    async with shop.testing() as t:
        await shop.breaker.open("1m")
        await t.advance("61s")
        with pytest.raises(Snooze):
            async with shop.breaker.call():
                raise Snooze("1m")
        assert (await shop.breaker.state()).state == "half-open"
        async with shop.breaker.call():
            pass
        assert (await shop.breaker.state()).state == "closed"


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


# ── put off ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_job_that_waits_for_a_day_has_used_no_attempt_and_says_why(shop):
    async with shop.testing() as t:
        await shop.breaker.open("24h")
        job = await shop.charge.enqueue()
        await t.drain()
        view = t.job(job)
        assert view.reason == "circuit 'payments' is open"
        assert view.run_at - t.now >= timedelta(hours=24)
        assert "it was put off: circuit 'payments' is open" in str(await shop.q.explain(job.id))
        await t.advance("25h")
        assert (t.job(job).attempt, t.job(job).result) == (1, "paid")


async def test_a_job_that_is_put_off_again_and_again_goes_on_in_the_end(shop):
    async with shop.testing() as t:
        job = await shop.charge.enqueue()
        for _ in range(200):
            await shop.breaker.open("10m")
            await t.advance("9m")
        assert len(t.history.of(job).events) > 200
        await t.advance("1h")
        assert (t.job(job).attempt, t.job(job).result) == (1, "paid")


async def test_jobs_that_were_put_off_come_back_spread(monkeypatch, shop):
    async with shop.testing() as t:
        chances = iter(number / 10 for number in range(10))
        monkeypatch.setattr(shop.q.get_exposed("circuit-breaker:payments")._kernel, "chance", lambda: next(chances))
        await shop.breaker.open("1m")
        await shop.run(10)
        waits = sorted((job.run_at - t.now).total_seconds() for job in t.enqueued("charge"))
    assert waits == pytest.approx([60 + 1.5 * number for number in range(10)])


async def test_a_handler_may_do_without_what_is_down(shop):
    @shop.q.handle("careful", queue="charge")
    async def careful() -> Any:
        try:
            async with shop.breaker.call():
                return await shop.service.charge()
        except CircuitOpen:
            return "later"

    async with shop.testing() as t:
        await shop.breaker.open()
        job = await careful.enqueue()
        await t.drain()
        assert t.job(job).result == "later"
    assert shop.service.calls == 0


# ── by hand ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_it_is_opened_and_closed_by_hand(shop):
    async with shop.testing() as t:
        shop.listen()
        assert (await shop.breaker.close()).state == "closed"
        view = await shop.breaker.open("10m")
        assert (view.name, view.state, view.until) == ("payments", "open", t.now + timedelta(minutes=10))
        assert (await shop.breaker.open("20m")).until == t.now + timedelta(minutes=20)
        await t.advance("11m")
        with pytest.raises(CircuitOpen) as caught:
            await shop.breaker.call().__aenter__()
        assert caught.value.retry_after >= 540
        assert await shop.breaker.close() == await shop.breaker.state()
        async with shop.breaker.call():
            pass
        assert (await shop.breaker.open()).until == t.now + timedelta(seconds=30)
    assert shop.told == ["opened", "closed", "opened"]


def test_it_is_told_without_asyncio(shop):
    assert isinstance(shop.breaker.sync, SyncCircuitBreaker)
    with shop.q.sync.testing():
        assert shop.breaker.sync.open("1m").state == "open"
        assert shop.breaker.sync.close().state == "closed"
        assert shop.breaker.sync.state().until is None


# ── what it costs ─────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_closed_circuit_costs_a_run_nothing_and_a_failure_one_call():
    shop = Shop(failures=5)
    async with shop.testing() as t:
        await shop.run()
        assert shop.counting.take() == {"read_state": 1, "write_state": 1}  # nobody had come to it before
        await t.advance("1m")
        await shop.run(100)
        assert shop.counting.take() == {"read_state": 1}
        await shop.run(100)
        assert shop.counting.take() == {}
        shop.service.error = ConnectionError("down")
        for _ in range(4):
            await shop.run()
            assert shop.counting.take() == {"write_state": 1}
        await t.advance("2m")
        shop.counting.take()
        await shop.run()
        assert shop.counting.take() == {"read_state": 1, "write_state": 1}  # they were long ago: nothing to look for


async def test_what_the_last_failure_costs_and_what_runs_cost_while_it_is_open():
    shop = Shop(failures=2)
    async with shop.testing():
        shop.service.error = ConnectionError("down")
        await shop.run()
        shop.counting.take()
        await shop.run()
        # Count, look how many there are, ask for the time, open.
        assert shop.counting.take() == {"write_state": 2, "scan_state": 1, "info": 1}
        await shop.run()
        assert shop.counting.take() == {"read_state": 2, "info": 1}
        await shop.run(100)
        assert shop.counting.take() == {}


# ── troubles ──────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_without_its_store_it_lets_everything_through(shop, caplog):
    async with shop.testing() as t:
        await shop.breaker.open("1h")
        shop.counting.is_away = True
        await shop.run(3)
        assert [job.result for job in t.enqueued("charge")] == ["paid"] * 3
        shop.service.error = ConnectionError("down")
        await t.advance("2s")
        await shop.run(5)
        assert shop.service.calls == 8
        shop.counting.is_away = False
        await t.advance("2s")
        await shop.run()
        assert shop.service.calls == 8
    assert [record.message for record in caplog.records if "circuit" in record.message] == [
        "a circuit breaker does without its store: runs get through"
    ]


async def test_a_store_that_hangs_holds_nobody_up(shop, monkeypatch):
    monkeypatch.setattr(turnstile, "PATIENCE_MS", 20)
    async with shop.testing() as t:
        await shop.breaker.open("1h")
        shop.counting.take()
        shop.counting.hangs = True
        await asyncio.gather(*(shop.breaker.call().__aenter__() for _ in range(10)))
        assert shop.counting.take() == {"read_state": 1}
        await t.advance("2s")
        with pytest.raises(ConnectionError):
            async with shop.breaker.call():
                raise ConnectionError("down")
        shop.counting.hangs = False
        await t.advance("2s")
        with pytest.raises(CircuitOpen):
            await shop.breaker.call().__aenter__()


async def test_a_run_that_tries_when_the_store_goes_away_ends_as_it_would(shop):
    async with shop.testing() as t:
        await shop.breaker.open("1s")
        await t.advance("2s")
        async with shop.breaker.call():
            shop.counting.is_away = True
        shop.counting.is_away = False
        await t.advance("29s")
        with pytest.raises(CircuitOpen):  # its place is taken by nobody
            await shop.breaker.call().__aenter__()
        await t.advance("1s")
        async with shop.breaker.call():
            pass
        assert (await shop.breaker.state()).state == "closed"


async def test_what_is_inside_when_the_queue_stops_ends_as_it_would(shop):
    async with shop.testing() as t:
        await shop.breaker.open("1m")
        await t.advance("1m")
        call = shop.breaker.call()
        await call.__aenter__()
    await call.__aexit__(None, None, None)


async def test_what_a_later_release_wrote_is_left_alone(shop):
    async with shop.testing() as t:
        kernel = shop.breaker._kernel
        write = StateWrite(kind="put", key="circuit:payments", value=b'{"format":2}')
        await kernel.operate(lambda op: kernel.store.write_state(op, Effects(writes=(write,))))
        await shop.run(2)
        assert [job.result for job in t.enqueued("charge")] == ["paid"] * 2
        for verb in (shop.breaker.state, shop.breaker.open, shop.breaker.close):
            with pytest.raises(InvalidState, match="later release"):
                await verb()


# ── options ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"circuit": ""}, "circuit"),
        ({"circuit": "a\x1fb"}, "circuit"),
        ({"failures": 0}, "failures"),
        ({"failures": True}, "failures"),
        ({"probes": 501}, "probes"),
        ({"within": 0}, "within"),
        ({"reset": "soon"}, "reset"),
        ({"handlers": "charge"}, "handlers"),
        ({"handlers": [3]}, "handlers"),
        ({"ignores": "ValueError"}, "ignores"),
        ({"ignores": 3}, "ignores"),
    ],
)
def test_bad_options_are_refused_by_name(options, option):
    with pytest.raises(InvalidOption) as caught:
        CircuitBreaker(options.pop("circuit", "payments"), **options)
    assert caught.value.option == option


def test_handlers_are_given_by_name_or_as_they_are():
    class Names(StrEnum):
        CHARGE = "charge"

    q = PsyQueue().use(memory())
    handler = q.handle("refund", Service().charge)
    breaker = CircuitBreaker(Names.CHARGE, handlers=(Names.CHARGE, handler))
    assert breaker._handlers == {"charge", "refund"}
    assert (breaker.circuit, breaker.name) == ("charge", "circuit-breaker:charge")


async def test_it_belongs_to_one_queue_that_is_started(shop):
    with pytest.raises(ConfigError, match="another queue"):
        PsyQueue().use(memory()).use(shop.breaker)
    with pytest.raises(NotStarted, match="payments"):
        await shop.breaker.call().__aenter__()
    with pytest.raises(NotStarted):
        await shop.breaker.state()
    with pytest.raises(ConfigError, match="no queue yet"):
        await CircuitBreaker("x").open()
    with pytest.raises(InvalidOption):
        async with shop.testing():
            await shop.breaker.open("never")
