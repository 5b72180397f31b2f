"""Redis 8, Valkey 9 and Redis 6.2 keep every promise of the seam."""

from __future__ import annotations

import pytest

from psyqueue.testing.conformance import *  # noqa: F403 - the suite
from psyqueue.testing.conformance import BackendFactory
from support.redis_store import redis_factory
from support.servers import Server


@pytest.fixture
def backend_factory(each_redis: Server, namespace: str) -> BackendFactory:
    return redis_factory(each_redis.url, namespace)
