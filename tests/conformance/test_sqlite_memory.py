"""SQLite keeps every promise of the seam, in `:memory:` as well: one connection and one thread for everything."""

from __future__ import annotations

import pytest

from psyqueue.testing.conformance import *  # noqa: F403 - the suite
from psyqueue.testing.conformance import BackendFactory
from support.sqlite_store import memory_factory


@pytest.fixture
def backend_factory() -> BackendFactory:
    return memory_factory()
