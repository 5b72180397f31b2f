"""Two major versions of PostgreSQL keep every promise of the seam."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from psyqueue.testing.conformance import *  # noqa: F403 - the suite
from psyqueue.testing.conformance import BackendFactory
from support.names import new_name
from support.postgres_reuse import Schema, reused_schema
from support.postgres_store import postgres_factory
from support.servers import Server


@pytest.fixture(scope="module")
def schema(each_postgres: Server) -> Iterator[Schema]:
    with reused_schema(each_postgres.url, new_name()) as made:
        yield made


@pytest.fixture
def backend_factory(schema: Schema) -> BackendFactory:
    return postgres_factory(schema)
