"""Random histories have the same outcome on Redis as on the model."""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test

from model.profiles import share
from model.stores import race_on
from support.redis_store import redis_factory
from support.servers import Server

PARTS = 3


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("part", range(PARTS))
def test_redis_agrees_with_the_model(part: int, redis_server: Server, namespace: str) -> None:
    factory = redis_factory(redis_server.url, namespace)
    run_state_machine_as_test(race_on(f"redis_{part}", factory), settings=share(PARTS))
