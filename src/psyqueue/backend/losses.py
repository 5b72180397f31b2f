"""What a store writes by itself: the error of a run whose worker was lost."""

from __future__ import annotations

import msgspec


def lost_error(worker: str, session_id: str, attempt: int, at_ms: int) -> bytes:
    """The JSON kept among a job's errors when its session was reaped; the same bytes on every store."""
    return msgspec.json.encode(
        {
            "type": "WorkerLost",
            "message": f"worker {worker!r} stopped renewing its lease",
            "session": session_id,
            "attempt": attempt,
            "at_ms": at_ms,
        }
    )
