from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from psyqueue import PsyQueue
from support.kernel import FakeClock, Probe, build


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def built() -> tuple[PsyQueue, Probe]:
    """A queue on a memory store, not started."""
    return build()


@pytest.fixture
def q(built: tuple[PsyQueue, Probe]) -> PsyQueue:
    return built[0]


@pytest.fixture
def probe(built: tuple[PsyQueue, Probe]) -> Probe:
    return built[1]


@pytest.fixture
async def started(q) -> AsyncIterator[PsyQueue]:
    """The same queue, started before the test and stopped after it. Handlers may still be registered."""
    async with q:
        yield q
