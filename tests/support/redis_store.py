"""Redis stores for the conformance suite and the model's race: each below a key prefix of its own."""

from __future__ import annotations

import itertools

from psyqueue.backend import BackendAdapter
from psyqueue.backends._redis import RedisBackend, RedisOptions
from psyqueue.testing.conformance import BackendFactory

_numbers = itertools.count()


def redis_factory(url: str, namespace: str) -> BackendFactory:
    """Stores on the server at `url`; every key begins with `namespace`."""
    prefixes: dict[int, str] = {}

    async def opened(prefix: str) -> BackendAdapter:
        backend = RedisBackend(RedisOptions(url=url, key_prefix=prefix, test_clock=True))
        await backend.connect()
        prefixes[id(backend)] = prefix
        return backend

    async def fresh() -> BackendAdapter:
        return await opened(f"{namespace}_{next(_numbers)}:")

    async def again(first: BackendAdapter) -> BackendAdapter:
        return await opened(prefixes[id(first)])

    return BackendFactory(fresh=fresh, again=again)
