"""The whole suite once more as docs/backends/redis.md says: with the rights of its ACL user, on the keys of its table.

In a database of its own, so that looking through all keys after each test stays cheap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from psyqueue.testing.conformance import *  # noqa: F403 - the suite
from psyqueue.testing.conformance import BackendFactory
from support.redis_page import documented_keys, documented_rules, kinds_of
from support.redis_store import redis_factory
from support.servers import Server

BASE = "psyqueue:{psyqueue}:"
DB = 1


@pytest.fixture
def admin(redis_server: Server) -> Iterator[Any]:
    import redis

    with redis.Redis.from_url(redis_server.url, db=DB) as client:
        yield client


@pytest.fixture
def backend_factory(redis_server: Server, namespace: str, admin: Any) -> Iterator[BackendFactory]:
    rules = [rule.replace(BASE, f"{namespace}_*") for rule in documented_rules(redis_server.version)]
    admin.execute_command("ACL", "SETUSER", namespace, "reset", *rules)
    place = urlsplit(redis_server.url)
    yield redis_factory(f"redis://{namespace}:secret@{place.hostname}:{place.port}/{DB}", namespace)
    admin.acl_deluser(namespace)
    keys = documented_keys()
    found = list(admin.scan_iter(f"{namespace}_*", count=1_000))
    kinds = {key.decode().partition("}:")[2]: admin.type(key).decode() for key in found}
    if found:
        admin.unlink(*found)
    assert {name: kind for name, kind in kinds.items() if kind not in kinds_of(name, keys)} == {}
