"""A client of a server may be killed around any call, or lose its reply: nothing is lost, half done, or done twice.

Method: as in test_failpoints. What is killed is the client, just before it sends a step or just after it heard of it
and before anybody could be told; so which of the two states is left is known exactly. The server's own death is the
matter of the storms and of each backend's test_server_faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from crash.scenario import NAMES, Log, Tokens, do, main
from crash.survivors import dump
from model.sides import differences
from psyqueue.backend import BackendAdapter, failpoints
from support.store_at import place_on, store_at

Border = tuple[int, str, int]
"""Number of a step, a call of the server that it makes, and how often that call was made by then."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@contextlib.asynccontextmanager
async def opened(place: str) -> AsyncIterator[BackendAdapter]:
    backend: BackendAdapter = store_at(place, test_clock=True).adapter
    await backend.connect()
    try:
        yield backend
    finally:
        await backend.disconnect()


@pytest.fixture(params=["redis", "postgres"])
def store(request) -> str:
    name: str = request.param
    return name


@pytest.fixture
def places(store, request, namespace) -> Iterator[str]:
    server = request.getfixturevalue(f"{store}_server")
    return (place_on(server.url, f"{namespace}_{number}") for number in itertools.count())


@pytest.fixture
def borders(store, places, monkeypatch) -> list[Border]:
    """Every call of every step, in order."""
    found: list[Border] = []
    at, runs = [-1], Counter[str]()

    def note(name: str) -> None:
        call, _, moment = name.rpartition(".")
        if moment == "before" and at[0] >= 0:
            runs[call] += 1
            found.append((at[0], call, runs[call]))

    async def tell() -> None:
        async with opened(next(places)) as backend:
            tokens = Tokens()
            runs[f"{store}.info"] += 1  # by connecting
            for at[0] in range(len(NAMES)):
                await do(backend, at[0], tokens)

    with monkeypatch.context() as patch:
        for module in ("client", "keeper"):
            patch.setattr(f"psyqueue.backends._{store}.{module}.failpoint", note)
        asyncio.run(tell())
    assert {step for step, _, _ in found} == set(range(len(NAMES))), "each step has a border"
    return found


async def survive(place: str, done: int, tokens: Tokens, expected: list[dict[str, Any]], left: slice) -> None:
    """Look at what is left, repeat the step that was under way, and go on to the end."""
    async with opened(place) as backend:
        found = await dump(backend)
        assert found in expected[left], (NAMES[done], differences(expected[left][0], found))
        for number in range(done, len(NAMES)):
            await do(backend, number, tokens)
            if number in (done, len(NAMES) - 1):
                found = await dump(backend)
                assert found == expected[number + 1], (NAMES[number], differences(expected[number + 1], found))


def what_is_left(borders: list[Border], border: Border, moment: str) -> slice:
    """Which of the model's states: before the step, after it, or, between two calls of one step, one of both."""
    step = border[0]
    of_step = [each for each in borders if each[0] == step]
    if moment == "before" and border == of_step[0]:
        return slice(step, step + 1)
    if moment == "after" and border == of_step[-1]:
        return slice(step + 1, step + 2)
    return slice(step, step + 2)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_around_any_call_leaves_the_step_done_or_undone(moment, places, tmp_path, borders, tell, expected):
    for number, border in enumerate(borders):
        step, call, nth = border
        place, log = next(places), tmp_path / f"{number}"
        assert tell(place, log, f"{call}.{moment}:kill:{nth}") == -signal.SIGKILL, border
        done, tokens = Log.read(log)
        assert (done, Log.begun(log)) == (step, step + 1), border
        asyncio.run(survive(place, done, tokens, expected, what_is_left(borders, border, moment)))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_step_of_unknown_outcome_can_be_repeated(moment, places, tmp_path, borders, expected, monkeypatch):
    for number, (_, call, nth) in enumerate(borders):
        place, log = next(places), tmp_path / f"{number}"
        plan = failpoints._Plan(f"{call}.{moment}:raise:{nth}")
        monkeypatch.setattr(failpoints, "_plan", plan)
        asyncio.run(main(place, log, is_repeating=True))
        monkeypatch.setattr(failpoints, "_plan", None)
        assert plan.left <= 0, f"{call}.{moment} was never reached {nth} times"
        assert Log.read(log)[0] == len(NAMES)

        async def look(place: str = place) -> dict[str, Any]:
            async with opened(place) as backend:
                return await dump(backend)

        found = asyncio.run(look())
        assert found == expected[-1], (call, nth, differences(expected[-1], found))
