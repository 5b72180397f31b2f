"""The conformance suite: what every backend promises, as tests. A backend adds a factory and gets all of them.

    # tests/test_my_backend.py
    import pytest
    from psyqueue.testing.conformance import *
    from psyqueue.testing.conformance import BackendFactory

    @pytest.fixture
    def backend_factory(tmp_path):
        async def fresh():
            backend = MyBackend(tmp_path / "jobs", test_clock=True)
            await backend.connect()
            return backend
        return BackendFactory(fresh=fresh)

The store's clock must be movable (`capabilities.test_clock`): no test sleeps. What a store cannot do is said by its
`Capabilities` or by a None in the factory, and shows as a skip with its reason. Needs pytest-asyncio, in any mode.
"""

from __future__ import annotations

import inspect

import pytest

_TOPICS = (
    "enqueue",
    "ordering",
    "settling",
    "effects",
    "repetition",
    "sessions",
    "needs",
    "gates",
    "keys",
    "limits",
    "times",
    "retention",
    "reading",
    "amending",
    "schedules",
    "shared_state",
    "waking",
    "modes",
    "bounds",
    "clients",
    "moves",
    "moving_house",
    "moving_rules",
)
pytest.register_assert_rewrite(*(f"{__name__}.{topic}" for topic in _TOPICS))

from psyqueue.testing.conformance import (  # noqa: E402 - after the rewrite is registered
    amending,
    bounds,
    clients,
    effects,
    enqueue,
    gates,
    keys,
    limits,
    modes,
    moves,
    moving_house,
    moving_rules,
    needs,
    ordering,
    reading,
    repetition,
    retention,
    schedules,
    sessions,
    settling,
    shared_state,
    times,
    waking,
)
from psyqueue.testing.conformance.defects import KEPT_OUT  # noqa: E402
from psyqueue.testing.conformance.fixtures import elsewhere, other, store  # noqa: E402
from psyqueue.testing.conformance.handle import BackendFactory, Store, Transaction  # noqa: E402

_MODULES = (
    enqueue,
    ordering,
    settling,
    effects,
    repetition,
    sessions,
    needs,
    gates,
    keys,
    limits,
    times,
    retention,
    reading,
    amending,
    schedules,
    shared_state,
    waking,
    modes,
    bounds,
    clients,
    moves,
    moving_house,
    moving_rules,
)


def _collect() -> dict[str, object]:
    """Every test of every topic; two of one name would hide each other."""
    tests: dict[str, object] = {}
    for module in _MODULES:
        for name, value in vars(module).items():
            if name.startswith("test_") and value.__module__ == module.__name__:
                assert name not in tests, f"{module.__name__}.{name} exists in another topic"
                tests[name] = pytest.mark.asyncio(value) if inspect.iscoroutinefunction(value) else value
    return tests


_TESTS = _collect()
globals().update(_TESTS)

__all__ = ["BackendFactory", "KEPT_OUT", "Store", "Transaction", "elsewhere", "other", "store"]  # noqa: RUF022
__all__ += list(_TESTS)
