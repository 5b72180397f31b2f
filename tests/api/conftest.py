"""A queue on each store, for what users type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from psyqueue import PsyQueue
from psyqueue.backends import memory
from support.store_at import place_on, store_at

STORES = ("memory", "sqlite", "redis", "postgres")


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def place(store: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Where the store is; of no use to the memory store, which every queue has of its own."""
    if store in ("redis", "postgres"):
        return place_on(request.getfixturevalue(f"{store}_server").url, request.getfixturevalue("namespace"))
    return str(tmp_path / "jobs.db")


@pytest.fixture
def make(store: str, place: str) -> Callable[..., PsyQueue]:
    """A new queue on the store, not started. `test_clock=True`: its clock moves by hand."""

    def build(*, test_clock: bool = False) -> PsyQueue:
        plugin = memory(test_clock=test_clock) if store == "memory" else store_at(place, test_clock=test_clock)
        return PsyQueue().use(plugin)

    return build


@pytest.fixture
def q(make: Callable[..., PsyQueue]) -> PsyQueue:
    return make()
