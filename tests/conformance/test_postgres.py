"""Two major versions of PostgreSQL keep every promise of the seam."""

from __future__ import annotations

import pytest

from psyqueue.testing.conformance import *  # noqa: F403 - the suite
from psyqueue.testing.conformance import BackendFactory
from support.postgres_store import postgres_factory
from support.servers import Server


@pytest.fixture
def backend_factory(each_postgres: Server, namespace: str) -> BackendFactory:
    return postgres_factory(each_postgres.url, namespace)
