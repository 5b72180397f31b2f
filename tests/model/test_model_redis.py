"""Random histories have the same outcome on Redis as on the model.

All of them on one server, a twentieth on each of the other kinds: there the frame of a command differs, not its text.
"""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test

from model.profiles import share
from model.stores import race_on
from support.redis_store import redis_factory
from support.servers import Server

PARTS = 3
TWENTIETH = 20


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("part", range(PARTS))
def test_redis_agrees_with_the_model(part: int, redis_server: Server, namespace: str) -> None:
    factory = redis_factory(redis_server.url, namespace)
    run_state_machine_as_test(race_on(f"redis_{part}", factory), settings=share(PARTS))


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("each_redis", ["valkey9", "redis6"], indirect=True)
def test_each_kind_of_server_agrees_with_the_model(each_redis: Server, namespace: str) -> None:
    name = f"redis_{each_redis.kind}_{each_redis.version}".replace(".", "_")
    run_state_machine_as_test(race_on(name, redis_factory(each_redis.url, namespace)), settings=share(TWENTIETH))
