"""What is read whole, page by page: queues and sessions."""

from __future__ import annotations

from psyqueue.backend import BackendAdapter, QueueInfo, SessionInfo
from psyqueue.backend.bounds import ITEMS_MAX


async def all_queues(backend: BackendAdapter, prefix: str = "") -> list[QueueInfo]:
    """Every known queue, by name."""
    found: list[QueueInfo] = []
    cursor: str | None = None
    while True:
        page, cursor = await backend.queues(prefix, cursor, ITEMS_MAX)
        found += page
        if cursor is None:
            return found


async def all_sessions(backend: BackendAdapter) -> list[SessionInfo]:
    """Every open session."""
    found: list[SessionInfo] = []
    cursor: str | None = None
    while True:
        page, cursor = await backend.sessions(cursor, ITEMS_MAX)
        found += page
        if cursor is None:
            return found
