"""Tokens for many callers in few calls of the store, which here answers when it is told to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from psyqueue import RateLimitError, StoreUnavailable
from psyqueue.backend import BackendAdapter, Effects, Op, StateWrite
from psyqueue.backends import memory
from psyqueue.plugins.tenancy.till import Till


class Desk:
    """A till on a memory store; `may_go` lets calls through."""

    def __init__(self, store: BackendAdapter) -> None:
        self.store, self.till = store, Till(self.write)
        self.may_go, self.calls, self.is_away = asyncio.Event(), 0, False

    async def write(self, takes: Sequence[StateWrite]) -> None:
        self.calls += 1
        await self.may_go.wait()
        if self.is_away:
            raise StoreUnavailable("it is away", "refused")
        await self.store.write_state(Op("desk", 1, self.calls), Effects(writes=tuple(takes)))

    async def come(self, *numbers: dict[str, int]) -> list[asyncio.Future[Any]]:
        """Callers, each with how much of which bucket of ten; the call of the first one is under way."""
        begun: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(self.till.take([take(key, n) for key, n in each.items()])) for each in numbers
        ]
        while len(self.till._waiting) < len(begun) or not self.calls:
            await asyncio.sleep(0)
        return begun

    async def ends(self, begun: list[asyncio.Future[Any]]) -> list[Any]:
        """None, or the class of the error, of each."""
        self.may_go.set()
        ends = await asyncio.gather(*begun, return_exceptions=True)
        errors = [end for end in ends if end is not None]
        assert len({id(error) for error in errors if isinstance(error, RateLimitError)}) == Counter(
            map(type, errors)
        ).get(RateLimitError, 0), "each has an error of its own"
        return [None if end is None else type(end) for end in ends]


def take(key: str, number: int) -> StateWrite:
    return StateWrite(kind="take", key=key, number=number, capacity=10, refill_per_minute=10)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    store = memory(test_clock=True).adapter
    await store.connect()
    yield Desk(store)
    await store.disconnect()


async def test_who_comes_during_a_call_goes_into_the_next_one_with_all_others(desk):
    begun = await desk.come(*({f"k{n}": 1} for n in range(300)))
    assert await desk.ends(begun) == [None] * 300
    assert desk.calls == 2


async def test_callers_of_one_bucket_go_together_too(desk):
    assert await desk.ends(await desk.come(*({"k": 1} for _ in range(10)))) == [None] * 10
    assert desk.calls == 2


async def test_a_call_takes_no_more_than_a_store_does(desk):
    begun = await desk.come(*({f"k{n}-{m}": 1 for m in range(200)} for n in range(6)))
    assert await desk.ends(begun) == [None] * 6
    assert desk.calls == 1 + 3


async def test_an_empty_bucket_spoils_nothing_for_those_beside(desk):
    """The first alone; all others, refused; those who want of another bucket; then of this one until it is empty."""
    crowd: list[dict[str, int]] = [{"poor": 8}, *({"poor": 1} for _ in range(50)), *({"rich": 1} for _ in range(9))]
    ends = await desk.ends(await desk.come(*crowd))
    assert ends == [None] * 3 + [RateLimitError] * 48 + [None] * 9
    assert desk.calls == 1 + 1 + 1 + 3


async def test_who_wants_less_than_one_that_was_refused_may_get_it(desk):
    begun = await desk.come({"k": 7}, {"k": 5}, {"k": 2}, {"k": 4}, {"k": 1})
    assert await desk.ends(begun) == [None, RateLimitError, None, RateLimitError, None]


async def test_who_wants_of_two_buckets_gets_all_or_none(desk):
    begun = await desk.come({"a": 9}, {"a": 2, "b": 5}, {"b": 10}, {"c": 1})
    assert await desk.ends(begun) == [None, RateLimitError, None, None]


async def test_who_goes_away_while_it_waits_takes_nothing(desk):
    begun = await desk.come({"x": 1}, {"k": 10}, {"k": 10})
    begun[1].cancel()
    assert await desk.ends(begun) == [None, asyncio.CancelledError, None]


async def test_when_the_one_whose_turn_it_is_goes_away_the_others_are_served(desk):
    begun = await desk.come({"x": 1}, {"k": 1}, {"k": 1})
    begun[0].cancel()
    assert await desk.ends(begun) == [asyncio.CancelledError, None, None]
    assert not desk.till._waiting


async def test_a_store_that_goes_away_is_told_to_all_who_wait(desk):
    begun = await desk.come(*({"k": 1} for _ in range(5)))
    desk.is_away = True
    assert await desk.ends(begun) == [StoreUnavailable] * 5
    desk.is_away = False
    await desk.till.take([take("k", 10)])
