"""Events of runs: told after the store committed, and only built when somebody listens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psyqueue import codec
from psyqueue.backend import Ack, AnyOutcome, Cancelled, Dead, Delivery, Keep, Retry, Settled, Snooze

if TYPE_CHECKING:
    from psyqueue.kernel.bus import EventBus

TOLD = (
    "job:completed",
    "job:enqueued",
    "job:failed",
    "job:retry",
    "job:dead",
    "job:snoozed",
    "job:cancelled",
    "job:requeued",
    "job:lease-lost",
)


class Announcer:
    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._wants = bus.wants

    def is_heard(self) -> bool:
        """Whether any event of an ended run has a listener: asked once a batch."""
        wants = self._wants
        return any(wants(event) for event in TOLD)

    def started(self, delivery: Delivery) -> None:
        if self._wants("job:started"):
            self._bus.publish("job:started", {**_names(delivery), "attempt": delivery.attempt})

    def settled(self, delivery: Delivery, outcome: AnyOutcome, settled: Settled) -> None:
        """What became of one run; nothing for an outcome that was settled before, or that goes on."""
        if settled.verdict == "lost":
            self.lease_lost(delivery)
        if settled.verdict != "ok" or isinstance(outcome, Keep):
            return
        match settled.status:
            case "completed":
                self._completed(delivery, outcome)
            case "cancelled":
                # Of a release that the store made a cancel of, only whoever asked for it knows the reason.
                reason = outcome.reason if isinstance(outcome, Cancelled) else ""
                self._tell("job:cancelled", delivery, reason=reason)
            case "dead":
                self._failed(delivery, outcome)
                reason = outcome.reason if isinstance(outcome, Dead) else "exhausted"
                self._tell("job:dead", delivery, outcome, attempt=delivery.attempt, reason=reason)
            case "scheduled" if isinstance(outcome, Retry):
                self._failed(delivery, outcome)
                self._tell("job:retry", delivery, outcome, attempt=delivery.attempt, delay_ms=outcome.delay_ms)
            case "scheduled" if isinstance(outcome, Snooze):
                self._tell("job:snoozed", delivery, delay_ms=outcome.delay_ms)
            case _:
                self._tell("job:requeued", delivery)
        if settled.effects:
            self._followed(outcome, settled)

    def lease_lost(self, delivery: Delivery) -> None:
        self._tell("job:lease-lost", delivery)

    def _completed(self, delivery: Delivery, outcome: AnyOutcome) -> None:
        if self._wants("job:completed"):
            result = codec.decode(outcome.result) if isinstance(outcome, Ack) else None
            self._tell("job:completed", delivery, result=result)

    def _failed(self, delivery: Delivery, outcome: AnyOutcome) -> None:
        self._tell("job:failed", delivery, outcome, attempt=delivery.attempt)

    def _followed(self, outcome: AnyOutcome, settled: Settled) -> None:
        if self._wants("job:enqueued"):
            for job, enqueued in zip(outcome.effects.jobs, settled.effects, strict=True):
                if enqueued.created:
                    self._bus.publish("job:enqueued", {"job_id": job.id, "queue": job.queue, "name": job.name})

    def _tell(self, event: str, delivery: Delivery, failure: AnyOutcome | None = None, **facts: Any) -> None:
        """With the error of `failure`, if one is given."""
        if self._wants(event):
            if failure is not None:
                facts["error"] = codec.decode(failure.error) if isinstance(failure, Dead | Retry) else None
            self._bus.publish(event, {**_names(delivery), **facts})


def _names(delivery: Delivery) -> dict[str, Any]:
    return {"job_id": delivery.id, "queue": delivery.queue, "name": delivery.name}
