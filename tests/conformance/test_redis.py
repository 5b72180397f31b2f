"""Redis keeps every promise of the seam."""

from __future__ import annotations

import pytest

from psyqueue.testing.conformance import *  # noqa: F403 - the suite
from psyqueue.testing.conformance import BackendFactory
from support.redis_store import redis_factory
from support.servers import Server


@pytest.fixture
def backend_factory(redis_server: Server, namespace: str) -> BackendFactory:
    return redis_factory(redis_server.url, namespace)
