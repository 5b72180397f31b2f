"""What the settings of a queue mean now."""

from __future__ import annotations

from psyqueue.backend import UNTIL_RESUMED, QueueInfo


def is_paused(info: QueueInfo, now_ms: int) -> bool:
    """Whether nothing of it is started now."""
    until_ms = info.limits.paused_until_ms
    return until_ms is not None and (until_ms == UNTIL_RESUMED or until_ms > now_ms)
