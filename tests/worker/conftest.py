from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from psyqueue import backends
from worker.rig import Blocker, Deaf, Rig, started

STORES = ["memory", *(["sqlite"] if hasattr(backends, "sqlite") else [])]


def _plugin(store: str, folder: Path, *, test_clock: bool) -> Any:
    if store == "memory":
        return backends.memory(test_clock=test_clock)
    return backends.sqlite(folder / "jobs.db", durability="normal", test_clock=test_clock)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    """The name of the store: every promise of the worker holds on each of them."""
    name: str = request.param
    return name


@pytest.fixture
def built(store: str, tmp_path: Path) -> Rig:
    """Not started yet."""
    return Rig(_plugin(store, tmp_path, test_clock=False))


@pytest.fixture
async def rig(built: Rig) -> AsyncIterator[Rig]:
    async with started(built):
        yield built


@pytest.fixture
def built_still(store: str, tmp_path: Path) -> Rig:
    """Not started yet, on a store whose clock moves by hand."""
    return Rig(_plugin(store, tmp_path, test_clock=True))


@pytest.fixture
async def still(built_still: Rig) -> AsyncIterator[Rig]:
    async with started(built_still):
        yield built_still


@pytest.fixture
async def second(store: str, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Any]]:
    """Makes another queue on the store of `built` or `rig`: in the tests another process."""
    async with AsyncExitStack() as stack:

        async def make(first: Rig) -> Rig:
            plugin = _plugin(store, tmp_path, test_clock=False)
            if store == "memory":
                from psyqueue.backends._memory import MemoryBackend

                plugin.adapter = MemoryBackend(shared_with=first.store)  # type: ignore[arg-type]
            return await stack.enter_async_context(started(Rig(plugin)))

        yield make


@pytest.fixture
def blocker() -> Iterator[Blocker]:
    made = Blocker()
    yield made
    made.open()


@pytest.fixture
async def deaf() -> AsyncIterator[Deaf]:
    """Ask for it after the rig: it has to be opened before the worker is stopped."""
    made = Deaf()
    yield made
    made.open()
