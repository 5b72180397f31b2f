"""Fixtures of the suite. `backend_factory` comes from the module that uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from psyqueue.testing.conformance.handle import BackendFactory, Store


@pytest_asyncio.fixture
async def store(backend_factory: BackendFactory) -> AsyncIterator[Store]:
    """A fresh store. Whatever a test did to it, it has to be whole afterwards."""
    backend = await backend_factory.fresh()
    try:
        client = Store(backend)
        yield client
        assert await client.broken() == []
    finally:
        await backend.disconnect()


@pytest_asyncio.fixture
async def other(store: Store, backend_factory: BackendFactory) -> AsyncIterator[Store]:
    """A second client of the same store."""
    if backend_factory.again is None:
        pytest.skip("this store lives in one client: there is no second one to the same data")
    backend = await backend_factory.again(store.backend)
    try:
        yield Store(backend, client="other")
    finally:
        await backend.disconnect()


@pytest_asyncio.fixture
async def elsewhere(backend_factory: BackendFactory) -> AsyncIterator[Store]:
    """Another store, empty and frozen: ready to be moved into."""
    backend = await (backend_factory.beside or backend_factory.fresh)()
    try:
        client = Store(backend, client="mover")
        await backend.set_mode(client.op(), "frozen", (await backend.info()).epoch + 1)
        yield client
        assert await client.broken() == []
    finally:
        await backend.disconnect()
