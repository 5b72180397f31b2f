"""SQLite keeps every promise of the seam, in a file that several clients share."""

from __future__ import annotations

from pathlib import Path

import pytest

from psyqueue.testing.conformance import *  # noqa: F403 - the suite
from psyqueue.testing.conformance import BackendFactory
from support.sqlite_store import sqlite_factory


@pytest.fixture
def backend_factory(tmp_path: Path) -> BackendFactory:
    return sqlite_factory(tmp_path)
