"""Where the plain handlers of a test run that has no event loop itself."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from typing import Any

from psyqueue.kernel.loop_thread import ThreadCall
from psyqueue.kernel.threads import Threads, call_at_home


class CallersThread(Threads):
    """The thread of the test while it waits for its jobs, as `caller()` tells; else threads as in a worker.

    So test and handlers share what belongs to a thread: a connection, the transaction that the test rolls back, a
    debugger. What only ends programs (Ctrl-C) ends the test, not the run.
    """

    def __init__(self, caller: Callable[[], ThreadCall[Any] | None]) -> None:
        super().__init__("psyqueue-test")
        self._caller = caller

    async def run(self, fn: Callable[[], Any]) -> Any:
        call = self._caller()
        if call is None:
            return await super().run(fn)
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        return await call.ask(functools.partial(call_at_home, loop, context, fn))
