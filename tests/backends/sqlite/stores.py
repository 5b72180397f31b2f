"""Files, clients and children for the tests of this folder."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from psyqueue.backends._sqlite import SqliteBackend, SqliteOptions
from psyqueue.testing.conformance.handle import Store

CHILD_LIMIT_S = 60


@contextlib.asynccontextmanager
async def opened(path: Path | str, client: str = "tester", **options: Any) -> AsyncIterator[Store]:
    """A connected client of the file."""
    backend = SqliteBackend(SqliteOptions(path=path, **{"durability": "normal", **options}))
    await backend.connect()
    try:
        yield Store(backend, client)
    finally:
        await backend.disconnect()


async def counts(store: Store, queue: str) -> dict[str, int]:
    """Jobs of the queue by status, without zeros."""
    infos, _ = await store.backend.queues(queue, None, 500)
    return {status: jobs for info in infos if info.queue == queue for status, jobs in info.counts.items() if jobs}


def start_child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that runs `code`; it finds this folder's helpers, and `arguments` in sys.argv."""
    prelude = f"import sys; sys.path[:0] = {sys.path!r}\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(child: subprocess.Popen[str]) -> str:
    """What it printed. Fails if it failed."""
    out, _ = child.communicate(timeout=CHILD_LIMIT_S)
    assert child.returncode == 0, (child.returncode, out)
    return out
