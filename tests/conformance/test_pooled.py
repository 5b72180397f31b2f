"""The whole suite once more behind a pooler that gives each transaction another session.

With `prepared=False`, as docs/backends/postgres.md says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from psyqueue.testing.conformance import *  # noqa: F403 - the suite
from psyqueue.testing.conformance import BackendFactory
from support.pooler import pooler_before
from support.postgres_store import postgres_factory
from support.servers import Server

pytestmark = pytest.mark.slow


@pytest.fixture
async def backend_factory(postgres_server: Server, namespace: str) -> AsyncIterator[BackendFactory]:
    async with pooler_before(postgres_server) as pooler:
        yield postgres_factory(pooler.url, namespace, prepared=False)
        assert pooler.swaps > 0
