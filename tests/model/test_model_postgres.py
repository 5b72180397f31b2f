"""Random histories have the same outcome on PostgreSQL as on the model.

All of them on one server, a twentieth on each of the versions in wheels, where the functions are the same; a tenth
with marks.
"""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test

from model.profiles import share
from model.stores import race_on
from support.marks import Everlasting
from support.postgres_store import postgres_factory
from support.servers import Server

PARTS = 3
TENTH, TWENTIETH = 10, 20


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("part", range(PARTS))
def test_postgres_agrees_with_the_model(part: int, postgres_server: Server, namespace: str) -> None:
    factory = postgres_factory(postgres_server.url, namespace)
    run_state_machine_as_test(race_on(f"postgres_{part}", factory), settings=share(PARTS))


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_each_version_agrees_with_the_model(each_postgres: Server, namespace: str) -> None:
    name = f"postgres_{each_postgres.version}".replace(".", "_")
    run_state_machine_as_test(race_on(name, postgres_factory(each_postgres.url, namespace)), settings=share(TWENTIETH))


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_fetches_that_begin_at_marks_agree_with_the_model(postgres_server: Server, namespace: str) -> None:
    factory = postgres_factory(postgres_server.url, namespace, Everlasting)
    run_state_machine_as_test(race_on("postgres_marks", factory), settings=share(TENTH))
