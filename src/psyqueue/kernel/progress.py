"""Progress of running jobs on its way to the store: the last one of each, at a bounded pace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from psyqueue.backend import Effects, Keep
from psyqueue.kernel.aio import call_later_ms
from psyqueue.kernel.run import Run, progress_of

PROGRESS_MS = 250
"""Progress alone makes a store call this often at most; the first one goes out at once."""


class Progress:
    """`is_due`: it is worth a call of its own by now. `wake()` is called when it becomes so."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.is_due: bool = False
        self._wake = wake
        self._runs: dict[Run, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False

    def note(self, run: Run) -> None:
        self._runs[run] = None
        if self._timer is None:
            self._send()

    def _send(self) -> None:
        self._timer = None
        if self._runs and not self._is_over:
            self.is_due = True
            self._timer = call_later_ms(PROGRESS_MS, self._send)
            self._wake()

    def take(self, count: int) -> list[tuple[Run, Keep]]:
        """That of as many runs, as effects of a `Keep`."""
        entries: list[tuple[Run, Keep]] = []
        for run in list(self._runs)[:count]:
            del self._runs[run]
            delivery = run.delivery
            effects = Effects(writes=(progress_of(run),))
            token = delivery.completion_token
            entries.append((run, Keep(job_id=delivery.id, completion_token=token, effects=effects)))
        self.is_due = bool(self._runs)
        return entries

    def put_back(self, run: Run) -> None:
        """It was not written: it goes out again."""
        run.has_progress = True
        self._runs[run] = None
        self.is_due = True

    def forget(self, run: Run) -> None:
        """Nothing that is due may outlive what it is due for: the loop would look for it for ever."""
        self._runs.pop(run, None)
        self.is_due &= bool(self._runs)

    def clear(self) -> None:
        self._runs.clear()
        self.is_due = False

    def end(self) -> None:
        """Nothing more becomes due."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
