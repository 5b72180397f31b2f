"""One delivery on its way through this worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec.structs import replace

from psyqueue.backend import Delivery, StateWrite
from psyqueue.kernel.context import Signals, StopReason, progress_key

if TYPE_CHECKING:
    from psyqueue.backend import AnyOutcome, Settled
    from psyqueue.kernel.run_transaction import RunTransaction

PROGRESS_KEPT_MS = 86_400_000


class Run:
    """Mutable on purpose: one is made per job on the hot path, and only the worker that holds it touches it.

    `is_lost`: its session is gone, nothing that it says counts. `progress` is the last one reported, `has_progress`
    says that it was not sent yet. `timer` is that of its timeout, if it has one. `transaction`: the handler asked for
    one. `settled`: the store's verdict, if the outcome went out with that.
    """

    __slots__ = (
        "delivery",
        "has_progress",
        "is_interrupted",
        "is_lost",
        "outcome",
        "progress",
        "run_ms",
        "settled",
        "signals",
        "stop_reason",
        "task",
        "timer",
        "transaction",
    )

    def __init__(self, delivery: Delivery) -> None:
        self.delivery: Delivery = delivery
        self.signals: Signals | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.outcome: AnyOutcome | None = None
        self.stop_reason: StopReason | None = None
        self.is_interrupted: bool = False
        self.is_lost: bool = False
        self.run_ms: float = 0.0
        self.settled: Settled | None = None
        self.transaction: RunTransaction | None = None
        self.progress: bytes | None = None
        self.has_progress: bool = False

    def stop(self, reason: StopReason, *, interrupt: bool) -> bool:
        """Tell the handler; the first reason counts. True: the wait for it was interrupted now, which happens once.

        A second cancel would only cut short what the handler does to clean up after the first.
        """
        if self.stop_reason is None:
            self.stop_reason = reason
        if reason == "lease-lost":
            self.is_lost = True
        if self.signals is not None:
            self.signals.lease_lost |= reason == "lease-lost"
            self.signals.cancelled |= reason != "lease-lost"
            self.signals.stop_reason = self.stop_reason
        if not interrupt or self.is_interrupted or self.task is None:
            return False
        self.is_interrupted = True
        self.task.cancel(reason)  # told to whoever stands around the handler
        return True


def progress_of(run: Run) -> StateWrite:
    # In this order: what a thread reports from here on is either read now, or reported anew.
    run.has_progress = False
    assert run.progress is not None, run.delivery.id
    return StateWrite(kind="put", key=progress_key(run.delivery.id), value=run.progress, ttl_ms=PROGRESS_KEPT_MS)


def with_progress(run: Run, outcome: AnyOutcome) -> AnyOutcome:
    """The end of a run, and with it the progress that had no call of its own yet."""
    effects = outcome.effects
    return replace(outcome, effects=replace(effects, writes=(*effects.writes, progress_of(run))))
