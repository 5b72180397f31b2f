"""A queue with schedules, and one with a circuit breaker, on a memory store."""

from __future__ import annotations

import pytest

from plugins.circuits import Shop
from psyqueue import PsyQueue
from psyqueue.backends import memory
from psyqueue.plugins import Schedules


@pytest.fixture
def schedules() -> Schedules:
    return Schedules()


@pytest.fixture
def q(schedules: Schedules) -> PsyQueue:
    return PsyQueue().use(memory()).use(schedules)


@pytest.fixture
def shop() -> Shop:
    return Shop()
