"""Random histories have the same outcome on PostgreSQL as on the model.

All of them on one server, a twentieth on each of the versions in wheels, where the functions are the same; a tenth
with marks.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis.stateful import run_state_machine_as_test

from model.profiles import share
from model.stores import race_on
from support.marks import Everlasting
from support.names import new_name
from support.postgres_reuse import Schema, reused_schema
from support.postgres_store import postgres_factory
from support.servers import Server

PARTS = 3
TENTH, TWENTIETH = 10, 20


@pytest.fixture(scope="module")
def schema(postgres_server: Server) -> Iterator[Schema]:
    with reused_schema(postgres_server.url, new_name()) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("part", range(PARTS))
def test_postgres_agrees_with_the_model(part: int, schema: Schema) -> None:
    run_state_machine_as_test(race_on(f"postgres_{part}", postgres_factory(schema)), settings=share(PARTS))


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_each_version_agrees_with_the_model(each_postgres: Server, namespace: str) -> None:
    name = f"postgres_{each_postgres.version}".replace(".", "_")
    with reused_schema(each_postgres.url, namespace) as schema:
        run_state_machine_as_test(race_on(name, postgres_factory(schema)), settings=share(TWENTIETH))


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_fetches_that_begin_at_marks_agree_with_the_model(schema: Schema) -> None:
    factory = postgres_factory(schema, Everlasting)
    run_state_machine_as_test(race_on("postgres_marks", factory), settings=share(TENTH))
