"""Channels: each call has an identity, and is repeated with the same one until its outcome is known."""

from __future__ import annotations

import asyncio

import pytest

from psyqueue import KeyConflict, StoreBusy, StoreFull, StoreUnavailable
from psyqueue.kernel.ops import GIVE_UP_MS, PAUSE_CAP_MS, Channel, SharedChannel
from support.kernel import FakeClock, next_turn


def channel(clock: FakeClock, **changes) -> Channel:
    return Channel("client", 4, clock=clock, chance=lambda: 1.0, **changes)


class Store:
    def __init__(self, *errors):
        self.errors = list(errors)
        self.ops = []

    async def call(self, op):
        self.ops.append(op)
        if self.errors:
            raise self.errors.pop(0)
        return "done"


async def test_each_call_is_the_next_turn_of_its_channel(clock):
    store, ch = Store(), channel(clock)
    assert [await ch.run(store.call) for _ in range(3)] == ["done"] * 3
    assert [(op.client, op.channel, op.turn) for op in store.ops] == [("client", 4, turn) for turn in (1, 2, 3)]


async def test_unknown_outcome_and_busy_store_are_repeated_with_the_same_op(clock):
    store = Store(StoreUnavailable("cut"), StoreBusy("locked"), StoreUnavailable("cut"))
    assert await channel(clock).run(store.call) == "done"
    assert len(store.ops) == 4
    assert len(set(map(repr, store.ops))) == 1
    assert clock.slept == [20, 40, 80]


@pytest.mark.parametrize(
    "error", [KeyConflict("k", "1", "unique"), StoreFull("full"), StoreUnavailable("no", "refused"), ValueError("bug")]
)
async def test_a_known_outcome_is_raised_at_once(clock, error):
    store = Store(error)
    with pytest.raises(type(error)):
        await channel(clock).run(store.call)
    assert (len(store.ops), clock.slept) == (1, [])


async def test_a_refusal_after_an_unknown_outcome_decides_nothing(clock):
    """A server that died with the reply is not there for the next try: the first one may have been done."""
    store = Store(StoreUnavailable("cut"), StoreUnavailable("nobody listens", "refused"), StoreBusy("loading"))
    assert await channel(clock).run(store.call) == "done"
    assert len(set(map(repr, store.ops))) == 1


@pytest.mark.parametrize(
    "last", [StoreUnavailable("nobody listens", "refused"), StoreBusy("locked"), StoreFull("full")]
)
async def test_the_outcome_stays_unknown_until_the_time_is_over(clock, last):
    store = Store(StoreUnavailable("cut"), *[last] * 1000)
    with pytest.raises(StoreUnavailable, match=last.message) as told:
        await channel(clock).run(store.call)
    assert told.value.outcome == "unknown"
    assert clock.mono_ms() >= GIVE_UP_MS


async def test_caller_is_told_when_the_time_is_over_and_the_next_call_has_the_next_turn(clock):
    store, ch = Store(*[StoreUnavailable(f"cut {n}") for n in range(1000)]), channel(clock)
    with pytest.raises(StoreUnavailable, match="cut"):
        await ch.run(store.call)
    assert GIVE_UP_MS <= clock.mono_ms() <= GIVE_UP_MS + PAUSE_CAP_MS
    assert max(clock.slept) == PAUSE_CAP_MS
    store.errors.clear()
    assert await ch.run(store.call) == "done"
    assert store.ops[-1].turn == 2


async def test_time_that_the_store_itself_took_counts(clock):
    """A store that waits for its own lock before it says busy must not make the caller wait twice."""

    async def call(op):
        clock.passed_ms += GIVE_UP_MS
        raise StoreBusy("locked")

    with pytest.raises(StoreBusy):
        await channel(clock).run(call)
    assert clock.slept == []


async def test_pauses_are_spread(clock):
    ch = Channel("client", 1, clock=clock, chance=lambda: 0.0)
    await ch.run(Store(StoreBusy("x"), StoreBusy("x")).call)
    assert clock.slept == [10, 20]


async def test_shared_channel_has_one_call_in_flight_in_order_of_arrival(clock):
    shared = SharedChannel("client", 1, clock=clock, chance=lambda: 1.0)
    log, gates = [], [asyncio.Event() for _ in range(3)]

    def call(n):
        async def run(op):
            log.append((n, op.turn))
            await gates[n].wait()

        return run

    callers = [asyncio.ensure_future(shared.run(call(n))) for n in range(3)]
    for n in range(3):
        await next_turn()
        await next_turn()
        assert log == [(m, m + 1) for m in range(n + 1)]
        gates[n].set()
    await asyncio.gather(*callers)


async def test_time_spent_waiting_for_a_turn_counts(clock):
    """Else the tenth of ten callers would hear of a store that is away after ten times as long."""
    shared = SharedChannel("client", 1, clock=clock, chance=lambda: 1.0)
    store = Store(*(StoreUnavailable("cut") for _ in range(1_000)))
    told = await asyncio.gather(*(shared.run(store.call) for _ in range(10)), return_exceptions=True)
    assert [type(error) for error in told] == [StoreUnavailable] * 10
    assert clock.passed_ms <= GIVE_UP_MS + PAUSE_CAP_MS
    assert {op.turn for op in store.ops} == set(range(1, 11))
