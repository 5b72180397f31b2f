"""The whole suite once more as docs/backends/postgres.md says: by an application that may define nothing.

One role owns each schema and fills it, another has the rights that the page prints, and works.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from psyqueue.testing.conformance import *  # noqa: F403 - the suite
from psyqueue.testing.conformance import BackendFactory
from support.postgres_roles import Roles
from support.postgres_store import postgres_factory
from support.servers import Server


@pytest.fixture
async def backend_factory(postgres_server: Server, namespace: str) -> AsyncIterator[BackendFactory]:
    roles = Roles(postgres_server.url, namespace)
    url = roles.url_of("psyqueue_app")
    yield postgres_factory(url, namespace, before=roles.prepare, schema_policy="require")
    await roles.drop()
