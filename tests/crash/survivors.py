"""What is left of the scenario's store, and what the in-memory model says that it should be."""

from __future__ import annotations

from typing import Any

from crash.scenario import IDS, NAMES, Tokens, do
from model.sides import Side
from psyqueue.backend import BackendAdapter
from psyqueue.backends._memory import MemoryBackend
from psyqueue.testing.conformance import BackendFactory


async def states() -> list[dict[str, Any]]:
    """Of the model: before the first step, and after each."""
    backend, tokens = MemoryBackend(test_clock=True), Tokens()
    await backend.connect()
    seen = [await dump(backend)]
    for number in range(len(NAMES)):
        await do(backend, number, tokens)
        seen.append(await dump(backend))
    return seen


async def dump(backend: BackendAdapter) -> dict[str, Any]:
    """All that the seam shows of a store."""

    async def fresh() -> BackendAdapter:
        return backend

    return await Side("store", BackendFactory(fresh=fresh), backend).dump(IDS)
