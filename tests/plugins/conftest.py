"""A queue with schedules on a memory store."""

from __future__ import annotations

import pytest

from psyqueue import PsyQueue
from psyqueue.backends import memory
from psyqueue.plugins import Schedules


@pytest.fixture
def schedules() -> Schedules:
    return Schedules()


@pytest.fixture
def q(schedules: Schedules) -> PsyQueue:
    return PsyQueue().use(memory()).use(schedules)
