"""The whole suite once more as docs/backends/postgres.md says: an application that may define nothing, behind a pooler.

One role owns each schema and fills it, another has the rights that the page prints, and works; with `prepared=False`,
as each of its transactions gets another session. Both at once, since neither can mend what the other breaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest

from psyqueue.testing.conformance import *  # noqa: F403 - the suite
from psyqueue.testing.conformance import BackendFactory
from support.names import new_name
from support.pooler import pooler_before
from support.postgres_reuse import Schema, reused_schema
from support.postgres_roles import Roles
from support.postgres_store import postgres_factory
from support.servers import Server


@pytest.fixture(scope="module")
def roles(postgres_server: Server) -> Iterator[Roles]:
    made = Roles(postgres_server.url, new_name())
    yield made
    asyncio.run(made.drop())


@pytest.fixture(scope="module")
def schema(roles: Roles) -> Iterator[Schema]:
    with reused_schema(roles.url, new_name(), roles.prepare) as made:
        yield made


@pytest.fixture
async def backend_factory(postgres_server: Server, roles: Roles, schema: Schema) -> AsyncIterator[BackendFactory]:
    async with pooler_before(postgres_server) as pooler:
        role = urlsplit(roles.url_of("psyqueue_app")).netloc.rpartition("@")[0]
        place = urlsplit(pooler.url)
        url = place._replace(netloc=f"{role}@{place.netloc.rpartition('@')[2]}").geturl()
        yield postgres_factory(schema, connection_string=url, schema_policy="require", prepared=False)
        assert pooler.swaps > 0
