"""Metrics: what is counted and measured in a process, what is read from the store, and where both can be read."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter

from psyqueue import Cancel, ConfigError, DeadLetter, InvalidOption, MissingExtra, NotStarted, PsyQueue, Retry, Snooze
from psyqueue.backends import memory
from psyqueue.errors import StoreUnavailable
from psyqueue.events import EVENTS
from psyqueue.plugins import CircuitBreaker, Metrics, Schedules
from psyqueue.plugins.metrics.counting import OF_JOBS, OF_OTHERS
from worker.rig import until

Value = Callable[..., float | None]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry(auto_describe=True)


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry=registry)


@pytest.fixture
def q(metrics: Metrics) -> PsyQueue:
    return PsyQueue().use(memory()).use(metrics)


@pytest.fixture
def value(registry: CollectorRegistry) -> Value:
    """Of a sample of the handler "work" on queue "w", or with other labels."""

    def read(name: str, /, **labels: str) -> float | None:
        return registry.get_sample_value(f"psyqueue_{name}", labels or {"queue": "w", "name": "work"})

    return read


# ── what this process does ────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_job_is_counted_and_measured(q, value):
    seen: list[float | None] = []

    @q.handle("work", queue="w")
    async def work() -> None:
        seen.append(value("jobs_running"))

    async with q:
        await work.enqueue()
        await work.enqueue()
        await q.process_next("w")
        assert (value("jobs_enqueued_total"), value("jobs_completed_total")) == (2, 1)
        assert (value("job_duration_seconds_count"), value("job_wait_seconds_count")) == (1, 1)
        assert (seen, value("jobs_running")) == ([1], 0)
        assert value("jobs_failed_total") is None


@pytest.mark.parametrize(
    ("verdict", "counted"),
    [
        (ValueError("no"), {"jobs_failed_total": 1, "jobs_retried_total": 1}),
        (Retry(after=1), {"jobs_failed_total": 1, "jobs_retried_total": 1}),
        (Snooze(1), {"jobs_snoozed_total": 1}),
        (Cancel("no"), {"jobs_cancelled_total": 1}),
        (DeadLetter("no"), {"jobs_failed_total": 1, "jobs_dead_total": 1}),
    ],
    ids=["error", "retry", "snooze", "cancel", "dead-letter"],
)
async def test_each_end_of_a_run_has_its_count(q, value, verdict, counted):
    @q.handle("work", queue="w")
    async def work() -> None:
        raise verdict

    async with q:
        await work.enqueue()
        await q.process_next("w")
        ends = ("completed", "failed", "retried", "dead", "cancelled", "snoozed", "requeued", "lease_lost")
        found = {name: value(name) for name in (f"jobs_{end}_total" for end in ends)}
        assert {name: number for name, number in found.items() if number} == counted
        assert (value("job_duration_seconds_count"), value("jobs_running")) == (1, 0)


async def test_what_a_circuit_breaker_puts_off_is_no_run(registry, value):
    breaker = CircuitBreaker("down", failures=1, handlers=["work"])
    q = PsyQueue().use(memory()).use(Metrics(registry=registry)).use(breaker)

    @q.handle("work", queue="w")
    async def work() -> None:
        raise ConnectionError

    async with q:
        for _ in range(3):
            await work.enqueue()
            await q.process_next("w")
        assert (value("job_duration_seconds_count"), value("jobs_snoozed_total")) == (1, 2)


async def test_a_dead_letter_that_is_replayed_is_counted(q, value):
    q.handle("work", lambda: 1 / 0, queue="w", max_retries=0)
    async with q:
        job = await q.enqueue("work", queue="w")
        await q.process_next("w")
        await q.dead_letter.replay(job.id)
        assert value("jobs_replayed_total") == 1


async def test_the_wait_is_that_of_the_stores_clock(registry, value):
    q = PsyQueue().use(memory(test_clock=True)).use(Metrics(registry=registry, buckets=(1, 100)))
    q.handle("work", lambda: None, queue="w")
    async with q:
        backend = q.get_exposed("backend")
        await q.enqueue("work", queue="w")
        await q.enqueue("work", queue="w", delay="10s")
        await backend.advance_clock(4_000)
        await q.process_next("w")
        await backend.advance_clock(8_500)
        await q.process_next("w")
        assert value("job_wait_seconds_sum") == 4 + 2.5
        assert value("job_wait_seconds_bucket", queue="w", name="work", le="1.0") == 0
        assert value("job_wait_seconds_bucket", queue="w", name="work", le="100.0") == 2


async def test_what_schedules_workers_and_services_tell_is_counted(q, value, registry):
    events = q.events
    async with q:
        for event, (name, _) in OF_OTHERS.items():
            events.publish(event, dict.fromkeys(EVENTS[event], "x"))
            assert registry.get_sample_value(f"psyqueue_{name}_total") == 1
        events.publish("job:recovered", {"count": 3, "job_ids": ["a", "b", "c"]})
        assert registry.get_sample_value("psyqueue_jobs_recovered_total") == 3


def test_every_event_of_a_job_has_a_count_or_a_reason():
    """A start is a run, which is measured; what was recovered has no handler."""
    rest = {event for event in EVENTS if event.startswith("job:")} - OF_JOBS.keys()
    assert rest == {"job:started", "job:recovered"}
    assert OF_OTHERS.keys() <= EVENTS.keys()


async def test_schedules_are_counted_for_what_they_make(registry):
    schedules = Schedules()
    q = PsyQueue().use(memory()).use(schedules).use(Metrics(registry=registry))
    schedules.add("often", q.handle("work", lambda: None, queue="w"), every="1h")
    async with q.testing() as t:
        await t.advance("3h")
        assert registry.get_sample_value("psyqueue_schedules_fired_total") == 3


# ── what is in the store ──────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_look_reads_what_is_in_the_store(registry):
    metrics = Metrics(registry=registry)
    q = PsyQueue().use(memory(test_clock=True)).use(metrics)
    q.handle("work", lambda: None, queue="w")

    def value(name: str, /, **labels: str) -> Any:
        return registry.get_sample_value(f"psyqueue_{name}", labels)

    async with q:
        await q.enqueue("work", queue="w")
        await q.enqueue("work", queue="w", delay="1h")
        await q.pause("other")
        await q.get_exposed("backend").advance_clock(90_000)
        assert value("store_up") is None, "nobody has looked"
        await metrics.look()
        assert value("store_up") == 1
        counts = {status: value("queue_jobs", queue="w", status=status) for status in ("pending", "scheduled", "dead")}
        assert counts == {"pending": 1, "scheduled": 1, "dead": 0}
        assert value("queue_oldest_pending_seconds", queue="w") == 90
        assert (value("queue_paused", queue="w"), value("queue_paused", queue="other")) == (0, 1)
        assert (value("queue_workers", queue="w"), value("workers")) == (0, 0)
        worker = q.start_worker("w")
        await until(lambda: worker.health()["store_call_age_ms"] is not None)
        await metrics.look()
        assert (value("queue_workers", queue="w"), value("workers")) == (1, 1)
    assert value("store_up") is None


@pytest.mark.parametrize("how", ["refused", "silent"])
async def test_a_store_that_does_not_answer_is_a_figure(q, metrics, registry, monkeypatch, how):
    async def away(self: object) -> None:
        if how == "refused":
            raise StoreUnavailable("away")
        await asyncio.Event().wait()

    monkeypatch.setattr("psyqueue.plugins.metrics.looking.LOOK_S_MAX", 0.05)
    async with q:
        await q.enqueue("work", queue="w")
        await metrics.look()
        monkeypatch.setattr("psyqueue.backends._memory.MemoryBackend.info", away)
        await metrics.look()
        assert registry.get_sample_value("psyqueue_store_up") == 0
        assert registry.get_sample_value("psyqueue_queue_jobs", {"queue": "w", "status": "pending"}) is None


# ── where it can be read ──────────────────────────────────────────────────────────────────────────────────────────────
async def test_the_usual_registry_has_them_from_start_to_stop():
    """The next queue of the process begins anew, as where an application is made again for each test."""
    for _ in range(2):
        q = PsyQueue().use(memory()).use(Metrics())
        q.handle("work", lambda: None, queue="w")
        labels = {"queue": "w", "name": "work"}
        async with q:
            await q.enqueue("work", queue="w")
            assert REGISTRY.get_sample_value("psyqueue_jobs_enqueued_total", labels) == 1
        assert REGISTRY.get_sample_value("psyqueue_jobs_enqueued_total", labels) is None


def test_programs_without_asyncio_look_by_a_call_that_blocks(q, metrics, registry):
    with q.sync:
        q.sync.enqueue("work", queue="w")
        metrics.sync.look()
        assert registry.get_sample_value("psyqueue_queue_jobs", {"queue": "w", "status": "pending"}) == 1


async def test_the_exposition_holds_the_whole_registry(q, metrics, registry):
    Counter("of_the_application", "Another one.", registry=registry).inc()
    async with q:
        await metrics.look()
        text = metrics.exposition().decode()
    assert "of_the_application_total 1.0" in text
    assert "psyqueue_store_up 1.0" in text


async def test_two_queues_of_a_process_need_two_prefixes(registry):
    first, second = (PsyQueue().use(memory()).use(Metrics(registry=registry)) for _ in range(2))
    other = PsyQueue().use(memory()).use(Metrics(registry=registry, prefix="billing"))
    async with first, other:
        with pytest.raises(ConfigError, match=r"another queue.*psyqueue_jobs_enqueued.*prefix=.*registry="):
            await second.start()
        assert registry.get_sample_value("billing_jobs_recovered_total") == 0
        assert registry.get_sample_value("psyqueue_jobs_recovered_total") == 0
    async with second:
        pass


# ── wrong use ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("prefix", "my-queue"),
        ("prefix", ""),
        ("prefix", None),
        ("buckets", ()),
        ("buckets", (1, 1)),
        ("buckets", (2, 1)),
        ("buckets", (0, 1)),
        ("buckets", ("1", "2")),
        ("buckets", (True, 2)),
        ("buckets", (1, float("inf"))),
        ("buckets", 5),
        ("buckets", iter((1, 2))),
        ("registry", "x"),
        ("shows_store", "no"),
    ],
)
def test_a_wrong_option_is_named(option: str, wrong: Any):
    with pytest.raises(InvalidOption, match=option):
        Metrics(**{option: wrong})


def test_metrics_are_for_one_queue(metrics, q):
    with pytest.raises(ConfigError, match="another queue"):
        PsyQueue().use(metrics)


async def test_a_look_needs_a_queue_that_runs(registry):
    metrics = Metrics(registry=registry)
    with pytest.raises(ConfigError, match=r"q\.use\(metrics\)"):
        await metrics.look()
    PsyQueue().use(memory()).use(metrics)
    with pytest.raises(NotStarted):
        await metrics.look()


def test_a_missing_package_is_told(monkeypatch):
    load = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "prometheus_client":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return load(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"pip install 'psyqueue\[metrics\]'"):
        Metrics()
