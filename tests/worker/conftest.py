from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from psyqueue import backends
from support.store_at import place_on, store_at
from worker.rig import Blocker, Deaf, Rig, started

STORES = ("memory", "sqlite")
SERVERS = ("redis", "postgres")
ON_SERVERS = ("batches", "effects", "growth", "leases", "retries", "stop", "store_faults", "strays", "suspects")
"""Modules whose promises lean on what the store does by itself: leases, signals, batches, time, repeats.

The others are about handlers, threads and processes of the worker: two stores show these, more of them cost time only.
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test may name its stores itself: `parametrize("store", …, indirect=True)`."""
    named = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "store" in metafunc.fixturenames and "store" not in named:
        is_on_servers = metafunc.module.__name__.rpartition(".test_")[2] in ON_SERVERS
        metafunc.parametrize("store", (*STORES, *SERVERS) if is_on_servers else STORES, indirect=True)


@pytest.fixture
def store(request: pytest.FixtureRequest) -> str:
    """The name of the store: every promise of the worker holds on each of them."""
    name: str = request.param
    return name


@pytest.fixture
def place(store: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Where the store is, for every queue of the test; a memory store is in its first one."""
    if store not in SERVERS:
        return str(tmp_path / "jobs.db")
    return place_on(request.getfixturevalue(f"{store}_server").url, request.getfixturevalue("namespace"))


def _plugin(store: str, place: str, *, test_clock: bool) -> Any:
    if store == "memory":
        return backends.memory(test_clock=test_clock)
    return store_at(place, test_clock=test_clock)


@pytest.fixture
def built(store: str, place: str) -> Rig:
    """Not started yet."""
    return Rig(_plugin(store, place, test_clock=False))


@pytest.fixture
async def rig(built: Rig) -> AsyncIterator[Rig]:
    async with started(built):
        yield built


@pytest.fixture
def built_still(store: str, place: str) -> Rig:
    """Not started yet, on a store whose clock moves by hand."""
    return Rig(_plugin(store, place, test_clock=True))


@pytest.fixture
async def still(built_still: Rig) -> AsyncIterator[Rig]:
    async with started(built_still):
        yield built_still


@pytest.fixture
async def second(store: str, place: str) -> AsyncIterator[Callable[..., Any]]:
    """Makes another queue on the store of `built` or `rig`: in the tests another process."""
    async with AsyncExitStack() as stack:

        async def make(first: Rig) -> Rig:
            plugin = _plugin(store, place, test_clock=False)
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
