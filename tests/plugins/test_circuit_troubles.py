"""What circuit breakers cost, and what they do without their store."""

from __future__ import annotations

import asyncio

import pytest

from plugins.circuits import Shop
from psyqueue import InvalidState
from psyqueue.backend import Effects, StateWrite
from psyqueue.plugins import CircuitOpen
from psyqueue.plugins.circuit_breaker import turnstile


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
