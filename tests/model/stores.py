"""The stores that race against the model."""

from __future__ import annotations

from model.machine import Machine
from psyqueue.backend import BackendAdapter
from psyqueue.backends._memory import MemoryBackend
from psyqueue.testing.conformance import BackendFactory


def memory_factory(kind: type[MemoryBackend] = MemoryBackend) -> BackendFactory:
    async def fresh() -> BackendAdapter:
        backend = kind(test_clock=True)
        await backend.connect()
        return backend

    async def again(first: BackendAdapter) -> BackendAdapter:
        assert isinstance(first, kind)
        backend = kind(test_clock=True, shared_with=first)
        await backend.connect()
        return backend

    return BackendFactory(fresh=fresh, again=again)


MEMORY = memory_factory()


def race_on(name: str, factory: BackendFactory) -> type[Machine]:
    """A machine with `factory`'s store under test. The name seeds Hypothesis: two names run two sets of histories."""
    return type(f"Race_{name}", (Machine,), {"model": MEMORY, "store": factory})
