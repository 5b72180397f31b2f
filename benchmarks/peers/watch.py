"""Between psyqueue's kernel and its store: counts calls, and knows when the first job started and the last was acked.

It is a plugin like anybody's, and costs a call, not a job: nothing of it runs inside a handler.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.machine import Span

from psyqueue import Kernel, StoreError
from psyqueue.backend import AnyOutcome, BackendAdapter, Fetch, Op, SettleReply

NOT_VERBS = frozenset(("bind", "keeper", "capabilities"))


class Watch:
    """`done` is set when `stop_after` jobs were acked, or, with 0, when nothing is left for this worker.

    Times are of the system's monotone clock, which all processes of a machine share. `span` is what lies between the
    first delivery and that moment, with `acked_in_span` jobs.
    """

    name = "watch"

    def __init__(
        self, stop_after: int = 0, on_acked: Callable[[int], None] | None = None, *, server_pid: int = 0
    ) -> None:
        self.stop_after = stop_after
        self.on_acked = on_acked
        self.calls: Counter[str] = Counter()
        self.errors: list[str] = []
        self.first_s = 0.0
        self.last_s = 0.0
        self.acked = 0
        self.delivered = 0
        self.call_s_max = 0.0
        self.done = asyncio.Event()
        self.span = Span(server_pid)
        self.acked_in_span = 0

    def init(self, kernel: Kernel) -> None:
        kernel.wrap_backend(self._wrap)

    def _wrap(self, inner: BackendAdapter) -> BackendAdapter:
        watched: Any = _Watched(inner, self)
        return watched  # type: ignore[no-any-return]

    def note(self, reply: SettleReply, *, began_s: float, is_fetch: bool) -> None:
        now_s = time.monotonic()
        self.call_s_max = max(self.call_s_max, now_s - began_s)
        acked = 0
        for settled in reply.settled:
            acked += settled.verdict == "ok"
        if acked:
            self.acked += acked
            self.last_s = now_s
            if self.on_acked is not None:
                self.on_acked(self.acked)
        if reply.deliveries:
            if not self.first_s:
                self.first_s = now_s
                self.span.begin()
            self.delivered += len(reply.deliveries)
        is_dry = is_fetch and not reply.deliveries and self.delivered == self.acked
        if not self.done.is_set() and ((self.acked >= self.stop_after) if self.stop_after else is_dry):
            if self.acked:
                self.span.end()
            self.acked_in_span = self.acked
            self.done.set()


class _Watched:
    def __init__(self, inner: BackendAdapter, watch: Watch) -> None:
        self._inner = inner
        self._watch = watch

    async def settle(
        self, op: Op, session_id: str, outcomes: Sequence[AnyOutcome], fetch: Fetch | None = None
    ) -> SettleReply:
        watch = self._watch
        watch.calls["settle"] += 1
        began_s = time.monotonic()
        try:
            reply = await self._inner.settle(op, session_id, outcomes, fetch)
        except StoreError as exc:
            watch.errors.append(f"{type(exc).__name__}: {exc}; {exc.__cause__}")
            raise
        watch.note(reply, began_s=began_s, is_fetch=fetch is not None)
        return reply

    def __getattr__(self, verb: str) -> Any:
        target = getattr(self._inner, verb)
        if verb in NOT_VERBS or not callable(target):
            return target

        def counted(*args: Any, **options: Any) -> Any:
            self._watch.calls[verb] += 1
            return target(*args, **options)

        return counted
