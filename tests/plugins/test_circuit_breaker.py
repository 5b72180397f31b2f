"""Circuit breakers in the time of a test: what opens and closes them, what becomes of jobs, by hand, options."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from datetime import timedelta
from enum import StrEnum
from typing import Any

import pytest

from plugins.circuits import Service, Shop
from psyqueue import ConfigError, InvalidOption, NotStarted, PsyQueue, Snooze
from psyqueue.backends import memory
from psyqueue.plugins import CircuitBreaker, CircuitOpen, SyncCircuitBreaker


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


async def elsewhere(call: Coroutine[Any, Any, None]) -> None:
    """As in another run: what was gone through here is not known there."""
    await asyncio.create_task(call, context=contextvars.Context())


async def test_who_is_inside_goes_in_once_more(shop):
    """A helper with a block of its own, called by a handler that goes through the same circuit as a whole."""
    is_down = True

    async def api() -> str:
        async with shop.breaker.call():
            if is_down:
                raise ConnectionError("down")
            return "paid"

    async def twice() -> str:
        async with shop.breaker.call():
            return await api()

    shop.q.handle("twice", twice, queue="charge", max_retries=9)
    async with shop.testing() as t:
        jobs = [await shop.q.enqueue("twice", queue="charge") for _ in range(9)]
        await t.drain()
        assert (await shop.breaker.state()).state == "open"
        is_down = False
        await t.advance("5m")
        assert (await shop.breaker.state()).state == "closed"
        assert {t.job(job).result for job in jobs} == {"paid"}


async def test_as_many_as_probes_get_through_while_it_is_half_open():
    shop = Shop(probes=2)
    async with shop.testing() as t:
        await shop.breaker.open("1m")
        await t.advance("61s")
        first, second = shop.breaker.call(), shop.breaker.call()
        await elsewhere(first.__aenter__())
        await elsewhere(second.__aenter__())
        for _ in range(3):
            with pytest.raises(CircuitOpen):
                await elsewhere(shop.breaker.call().__aenter__())
        with pytest.raises(CircuitOpen) as caught:
            await elsewhere(shop.breaker.call().__aenter__())
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
