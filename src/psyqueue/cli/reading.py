"""What is read whole, page by page: queues and sessions; and what their settings mean now."""

from __future__ import annotations

from psyqueue.backend import UNTIL_RESUMED, BackendAdapter, QueueInfo, SessionInfo
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


def is_paused(info: QueueInfo, now_ms: int) -> bool:
    """Whether nothing of it is started now."""
    until_ms = info.limits.paused_until_ms
    return until_ms is not None and (until_ms == UNTIL_RESUMED or until_ms > now_ms)
