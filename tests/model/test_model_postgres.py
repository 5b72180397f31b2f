"""Random histories have the same outcome on PostgreSQL as on the model."""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test

from model.profiles import share
from model.stores import race_on
from support.postgres_store import postgres_factory
from support.servers import Server

PARTS = 3


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("part", range(PARTS))
def test_postgres_agrees_with_the_model(part: int, postgres_server: Server, namespace: str) -> None:
    factory = postgres_factory(postgres_server.url, namespace)
    run_state_machine_as_test(race_on(f"postgres_{part}", factory), settings=share(PARTS))
