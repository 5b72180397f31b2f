"""Names of a test's own on servers that it shares with others."""

from __future__ import annotations

import itertools
import os

_numbers = itertools.count(1)


def new_name() -> str:
    """Unique per run, test process and call, so that a server given by URL can be shared.

    Fits as a Redis key prefix and as a PostgreSQL schema name (far below 63 bytes).
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    return f"pqt_{os.getpid():x}_{worker}_{next(_numbers)}"
