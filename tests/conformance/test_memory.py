"""The in-memory store keeps every promise: it is the executable specification."""

from __future__ import annotations

import pytest

from psyqueue.backend import BackendAdapter
from psyqueue.backends._memory import MemoryBackend
from psyqueue.testing.conformance import *  # noqa: F403 - the suite
from psyqueue.testing.conformance import BackendFactory


@pytest.fixture
def backend_factory() -> BackendFactory:
    async def fresh() -> BackendAdapter:
        backend = MemoryBackend(test_clock=True)
        await backend.connect()
        return backend

    async def again(first: BackendAdapter) -> BackendAdapter:
        assert isinstance(first, MemoryBackend)
        backend = MemoryBackend(test_clock=True, shared_with=first)
        await backend.connect()
        return backend

    return BackendFactory(fresh=fresh, again=again)
