"""What is counted in this process: the events of jobs, and how long they waited and ran."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from psyqueue import Context, Event
    from psyqueue.kernel.extension import Kernel

OF_JOBS: Final = {
    "job:enqueued": ("jobs_enqueued", "Jobs that this process wrote."),
    "job:completed": ("jobs_completed", "Jobs whose ack was accepted."),
    "job:failed": ("jobs_failed", "Runs that failed; each is followed by a retry or a dead letter."),
    "job:retry": ("jobs_retried", "Runs after which the job will run again."),
    "job:dead": ("jobs_dead", "Jobs that became dead letters."),
    "job:cancelled": ("jobs_cancelled", "Jobs that were cancelled."),
    "job:snoozed": ("jobs_snoozed", "Runs that were put off, by their handler or a circuit breaker."),
    "job:requeued": ("jobs_requeued", "Deliveries that were handed back before or during their run."),
    "job:lease-lost": ("jobs_lease_lost", "Runs whose worker no longer held the job at their end."),
    "job:replayed": ("jobs_replayed", "Dead letters that were sent on another round."),
}
"""By queue and name of the handler."""
OF_OTHERS: Final = {
    "worker:error": ("worker_errors", "Troubles of workers with their store, or with threads and processes."),
    "schedule:fired": ("schedules_fired", "Jobs that schedules made here."),
    "schedule:failed": ("schedules_failed", "Errors that kept schedules from making a job."),
    "workflow:completed": ("workflows_completed", "Workflows that this process found completed."),
    "workflow:failed": ("workflows_failed", "Workflows that this process found failed or cancelled."),
    "circuit:opened": ("circuits_opened", "Circuits that were opened here."),
    "tenancy:rate-limited": (
        "enqueues_rate_limited",
        "Enqueues that were refused, since their tenant had used up a minute.",
    ),
    "service:error": ("service_errors", "Failures of plugins' services."),
}
_LABELS: Final = ("queue", "name")


class Counting:
    """The instruments of one process; `collectors` are what a registry takes."""

    def __init__(self, prefix: str, buckets: Sequence[float]) -> None:
        self._of_jobs = {
            event: Counter(f"{prefix}_{name}", text, _LABELS, registry=None) for event, (name, text) in OF_JOBS.items()
        }
        self._of_others = {
            event: Counter(f"{prefix}_{name}", text, registry=None) for event, (name, text) in OF_OTHERS.items()
        }
        self._recovered = Counter(
            f"{prefix}_jobs_recovered", "Jobs that this process took back from lost workers.", registry=None
        )
        self._wait = Histogram(
            f"{prefix}_job_wait_seconds",
            "From the time at which a job was to start until a worker took it, by the clock of the store.",
            _LABELS,
            buckets=buckets,
            registry=None,
        )
        self._duration = Histogram(
            f"{prefix}_job_duration_seconds",
            "One run of a handler, however it ended.",
            _LABELS,
            buckets=buckets,
            registry=None,
        )
        self._running = Gauge(
            f"{prefix}_jobs_running", "Handlers that run now.", _LABELS, registry=None, multiprocess_mode="livesum"
        )
        self._runs: dict[tuple[str, str], _Runs] = {}

    @property
    def collectors(self) -> Iterator[Collector]:
        """One for each name."""
        yield from self._of_jobs.values()
        yield from self._of_others.values()
        yield from (self._recovered, self._wait, self._duration, self._running)

    def listen(self, kernel: Kernel) -> None:
        """Count what is told, and measure what runs, from now on."""
        events = kernel.events
        for event, counter in self._of_jobs.items():
            events.on(event, _counted_by_handler(counter))
        for event, counter in self._of_others.items():
            events.on(event, _counted(counter))
        events.on("job:recovered", lambda event: self._recovered.inc(event.data["count"]))
        # Innermost: what a circuit breaker or a guard puts off is no run.
        kernel.pipeline("process", self._measure, phase="finalize")

    async def _measure(self, ctx: Context, call_next: Callable[[], Any]) -> Any:
        job = ctx.job
        runs = self._runs.get((job.queue, job.name)) or self._runs_of(job.queue, job.name)
        runs.wait.observe(max(0.0, (job.started_at - job.run_at).total_seconds()))
        runs.running.inc()
        began_s = perf_counter()
        try:
            return await call_next()
        finally:
            runs.duration.observe(perf_counter() - began_s)
            runs.running.dec()

    def _runs_of(self, queue: str, name: str) -> _Runs:
        made = self._runs[queue, name] = _Runs(
            self._wait.labels(queue, name), self._duration.labels(queue, name), self._running.labels(queue, name)
        )
        return made


class _Runs(NamedTuple):
    """Of one handler on one queue."""

    wait: Histogram
    duration: Histogram
    running: Gauge


def _counted_by_handler(counter: Counter) -> Callable[[Event], None]:
    # Looked up by ourselves: `labels` checks and joins its arguments each time, which is half of what a count costs.
    known: dict[tuple[str, str], Counter] = {}

    def count(event: Event) -> None:
        key = event.data["queue"], event.data["name"]
        found = known.get(key)
        if found is None:
            found = known[key] = counter.labels(*key)
        found.inc()

    return count


def _counted(counter: Counter) -> Callable[[Event], None]:
    def count(_: Event) -> None:
        counter.inc()

    return count
