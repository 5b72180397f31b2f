"""What tests lean on, ours and other people's. `q.testing()` makes a `Kit`; `context()` is for a handler by itself.

`psyqueue.testing.conformance` needs pytest and pytest-asyncio (`pip install 'psyqueue[test]'`), nothing else here does;
`psyqueue.testing.history` checks what processes did while others killed them.
"""

from __future__ import annotations

from psyqueue.testing.engine import Failure
from psyqueue.testing.faults import NotIdle, StillRunning, TooManyRuns
from psyqueue.testing.handler_context import FollowUp, HandlerContext, context
from psyqueue.testing.kit import Kit
from psyqueue.testing.matching import Expected
from psyqueue.testing.sync_kit import SyncKit
from psyqueue.testing.timeline import History, Moment

__all__ = [
    "Expected",
    "Failure",
    "FollowUp",
    "HandlerContext",
    "History",
    "Kit",
    "Moment",
    "NotIdle",
    "StillRunning",
    "SyncKit",
    "TooManyRuns",
    "context",
]
