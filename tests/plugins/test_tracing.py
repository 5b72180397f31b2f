"""Tracing on a memory store: which spans there are, what they say, and what hangs together.

Method: real spans of the SDK, kept by an exporter; jobs are run one by one.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.trace import SpanKind, StatusCode

from plugins import traced_handlers as elsewhere
from psyqueue import (
    Cancel,
    Context,
    DeadLetter,
    InvalidOption,
    PsyQueue,
    Rejected,
    Retry,
    Snooze,
)
from psyqueue.backends import memory
from psyqueue.plugins import Schedules, Tracing
from psyqueue.plugins.tracing.ends import end_of
from support.spans import Recorder, ids, linked, told

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Recorder:
    return Recorder()


@pytest.fixture
def q(spans: Recorder) -> PsyQueue:
    return traced(spans)


def traced(spans: Recorder, **options: Any) -> PsyQueue:
    return PsyQueue().use(memory()).use(Tracing(tracer_provider=spans.provider, **options))


async def run(q: PsyQueue, *queues: str) -> None:
    """A job of each queue."""
    for queue in queues:
        assert await q.process_next(queue)


# ── enqueue ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_an_enqueue_has_a_span_below_the_callers_and_the_job_carries_it(q, spans):
    async with q:
        with spans.tracer.start_as_current_span("request"):
            job = await q.enqueue("mail.send", {"to": "ann"}, queue="mail")
        view = await job.refresh()
    span = spans.one("publish mail")
    assert span.kind is SpanKind.PRODUCER
    assert ids(span.parent) == ids(spans.one("request"))
    assert span.attributes == {
        "messaging.system": "psyqueue",
        "messaging.operation.type": "send",
        "messaging.operation.name": "publish",
        "messaging.destination.name": "mail",
        "messaging.message.id": job.id,
        "psyqueue.job.name": "mail.send",
    }
    (header,) = view.trace.items()
    trace_id, span_id = ids(span)
    assert re.fullmatch(f"traceparent: 00-{trace_id}-{span_id}-0[0-9]", ": ".join(header))
    assert view.meta == {}, "that is the user's own"


async def test_a_bulk_has_one_span_that_all_of_its_jobs_carry(q, spans):
    async with q:
        jobs = await q.enqueue_bulk(
            [{"name": "a", "options": {"queue": "x"}}, {"name": "b", "options": {"queue": "x"}}]
        )
        views = [await job.refresh() for job in jobs]
        await q.enqueue_bulk([{"name": "a", "options": {"queue": queue}} for queue in "xyz"])
    of_one_queue, of_several = spans.one("publish x"), spans.one("publish")
    assert told(of_one_queue, "messaging.batch.message_count") == 2
    assert told(of_one_queue, "messaging.destination.name") == "x"
    assert told(of_one_queue, "psyqueue.job.name") is None
    assert told(of_one_queue, "messaging.message.id") is None
    assert views[0].trace == views[1].trace
    assert ids(of_one_queue)[1] in views[0].trace["traceparent"]
    assert told(of_several, "messaging.batch.message_count") == 3
    assert told(of_several, "messaging.destination.name") is None
    assert told(of_several, "psyqueue.job.name") == "a"


async def test_the_same_enqueue_in_another_trace_is_still_the_same(q, spans):
    """Its trace is who enqueues, not what: else a repeated request would be told of a conflict."""
    async with q:
        jobs = [await q.enqueue("charge", {"n": 1}, idempotency_key="order-7") for _ in range(2)]
        same = [await q.enqueue("charge", {"n": 1}, id="order-8") for _ in range(2)]
        view = await jobs[0].refresh()
    assert jobs[0].id == jobs[1].id
    assert [job.created for job in (*jobs, *same)] == [True, False, True, False]
    first, second, *_ = spans.all("publish charge")
    assert ids(first)[1] in view.trace["traceparent"], "who was first"
    assert told(first, "psyqueue.job.created") is None
    assert told(second, "psyqueue.job.created") is False
    assert told(second, "messaging.message.id") == jobs[0].id


async def test_an_enqueue_that_fails_says_so(q, spans):
    async def refuse(ctx, call_next):
        raise Rejected("not today")

    q.pipeline("enqueue", refuse)
    async with q:
        with pytest.raises(Rejected):
            await q.enqueue("a", {})
    span = spans.one("publish a")
    assert (span.status.status_code, told(span, "error.type")) == (StatusCode.ERROR, "psyqueue.errors.Rejected")
    assert span.events[0].name == "exception"


def test_a_call_without_asyncio_has_the_span_of_its_thread_as_parent(q, spans):
    with spans.tracer.start_as_current_span("view"):
        q.sync.enqueue("a", {})
    q.sync.stop()
    assert ids(spans.one("publish a").parent) == ids(spans.one("view"))


# ── runs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("mode", ["async", "thread"])
async def test_a_run_has_a_span_that_links_to_its_enqueue_and_is_current_in_the_handler(q, spans, mode):
    async def on_the_loop() -> None:
        in_a_thread()

    def in_a_thread() -> None:
        with spans.tracer.start_as_current_span("own"):
            pass

    q.handle("work", on_the_loop if mode == "async" else in_a_thread, queue="w")
    async with q:
        job = await q.enqueue("work", {})
        with spans.tracer.start_as_current_span("of whoever runs it"):
            await run(q, "w")
    span = spans.one("process w")
    assert span.kind is SpanKind.CONSUMER
    assert (span.parent, linked(span)) == (None, [ids(spans.one("publish w"))])
    assert ids(spans.one("own").parent) == ids(span)
    assert span.status.status_code is StatusCode.UNSET
    attributes = dict(span.attributes or {})
    assert attributes.pop("psyqueue.job.wait_ms") >= 0
    assert attributes == {
        "messaging.system": "psyqueue",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": "w",
        "messaging.message.id": job.id,
        "psyqueue.job.name": "work",
        "psyqueue.job.attempt": 1,
        "psyqueue.job.outcome": "completed",
    }


async def test_as_parent_the_enqueue_and_the_run_are_one_trace(spans):
    q = traced(spans, relation="parent")

    @q.handle("work", queue="w")
    async def work(ctx: Context) -> None:
        ctx.enqueue("more", queue="m")

    q.handle("more", elsewhere.breaks)
    async with q:
        await work.enqueue()
        await run(q, "w", "m")
    published, processed = spans.one("publish w"), spans.one("process w")
    assert (ids(processed.parent), linked(processed)) == (ids(published), [])
    assert ids(spans.one("publish m").parent) == ids(processed)
    assert len(spans.names) == 4
    assert len({ids(spans.one(name))[0] for name in spans.names}) == 1


async def test_follow_ups_are_below_the_run_that_enqueued_them(q, spans):
    def work(ctx: Context) -> None:
        ctx.enqueue("a", queue="a")
        ctx.enqueue("b", queue="b")

    @q.handle("direct", queue="d")
    async def direct() -> None:
        with spans.tracer.start_as_current_span("own"):
            await q.enqueue("c", {})

    q.handle("work", work, queue="w")
    async with q:
        await q.enqueue_bulk([{"name": "work"}, {"name": "direct"}])
        await run(q, "w", "d")
        await q.enqueue("from outside", {})
    follow_ups = spans.all("publish")[-1]
    assert told(follow_ups, "messaging.batch.message_count") == 2
    assert ids(follow_ups.parent) == ids(spans.one("process w"))
    assert ids(spans.one("publish c").parent) == ids(spans.one("own"))
    assert spans.one("publish from outside").parent is None


async def test_follow_ups_are_below_their_run_also_when_it_was_in_a_task_of_its_own(q, spans):
    async def bounded(ctx, call_next):
        return await asyncio.create_task(call_next())

    def work(ctx: Context) -> None:
        ctx.enqueue("a", queue="a")

    q.pipeline("process", bounded, phase="guard")
    q.handle("work", work, queue="w")
    async with q:
        await q.enqueue("work", {})
        await run(q, "w")
    assert ids(spans.one("publish a").parent) == ids(spans.one("process w"))


@pytest.mark.parametrize("count", [1, 2])
async def test_a_trace_that_came_from_elsewhere_goes_on(q, spans, count):
    """Middleware that has it from the call that it handles, for example; of several each job stays in its own."""

    async def of_elsewhere(ctx, call_next):
        for number, draft in enumerate(ctx.jobs):
            draft.trace = {"traceparent": TRACEPARENT, "tracestate": f"number={number}"}
        await call_next()

    q.pipeline("enqueue", of_elsewhere, phase="transform")
    async with q:
        (job, *_) = await q.enqueue_bulk([{"name": "a"}] * count)
        view = await job.refresh()
    published = spans.one("publish a")
    if count == 1:
        assert ids(published)[1] in view.trace["traceparent"]
        assert ids(published.parent) == tuple(TRACEPARENT.split("-")[1:3])
    else:
        assert (published.parent, view.trace["traceparent"]) == (None, TRACEPARENT)


async def test_a_handler_in_another_process_continues_the_trace(q, spans):
    q.handle("render", elsewhere.parent_of_a_span, mode="process", queue="r")
    q.handle("outside", elsewhere.current_outside, mode="process", queue="o")
    q.handle("breaks", elsewhere.breaks, mode="process", queue="b")
    async with q:
        job, outside, _ = await q.enqueue_bulk([{"name": "render"}, {"name": "outside"}, {"name": "breaks"}])
        await run(q, "r", "o", "b")
        span = spans.one("process r")
        assert (await job.refresh()).result == list(ids(span))
        assert (await outside.refresh()).result is False
    assert ids(spans.one("publish later").parent) == ids(span)
    broken = spans.one("process b")
    assert told(broken, "error.type") == "LookupError"
    (event,) = broken.events
    assert "in breaks" in str((event.attributes or {})["exception.stacktrace"]), "the traceback of the other process"


async def test_a_schedule_makes_jobs_with_a_trace(spans):
    schedules = Schedules()
    q = traced(spans).use(schedules)
    q.handle("tick", lambda: None, queue="t")
    schedules.add("t", "tick", every="1h")
    async with q.testing(now=datetime(2026, 3, 2, tzinfo=UTC)) as t:
        await t.advance("1h")
    assert linked(spans.one("process t")) == [ids(spans.one("publish t"))]


async def test_baggage_goes_along_by_option_only(spans):
    found: list[object] = []

    async def work() -> None:
        found.append(baggage.get_baggage("tenant"))

    for option in (True, False):
        q = traced(spans, baggage=option)
        q.handle("work", work)
        async with q:
            token = context.attach(baggage.set_baggage("tenant", "ann"))
            await q.enqueue("work", {})
            context.detach(token)
            await run(q, "work")
    assert found == ["ann", None]


async def test_baggage_that_is_too_long_stays_behind(spans):
    q = traced(spans, baggage=True)
    async with q:
        token = context.attach(baggage.set_baggage("text", "x" * 9_000))
        job = await q.enqueue("work", {})
        context.detach(token)
        assert list((await job.refresh()).trace) == ["traceparent"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"traceparent": ""},
        {"traceparent": "nonsense"},
        {"traceparent": "00-00000000000000000000000000000000-0000000000000000-00"},
        {"traceparent": TRACEPARENT, "tracestate": "no=t,a=state,,=,\x00"},
        {"traceparent": "00-" + "é" * 32 + "-b7ad6b7169203331-01"},
        {"baggage": "=;=,;"},
    ],
)
async def test_a_job_with_a_broken_trace_runs_as_ever(spans, headers):
    q = traced(spans, baggage=True)

    async def breaking(ctx, call_next):
        ctx.jobs[0].trace = headers
        await call_next()

    q.pipeline("enqueue", breaking)
    q.handle("work", lambda: "done")
    async with q:
        job = await q.enqueue("work", {})
        await run(q, "work")
        assert (await job.refresh()).result == "done"
    assert len(linked(spans.one("process work"))) == (headers.get("traceparent") == TRACEPARENT)


@pytest.mark.parametrize("mode", ["auto", "process"])
async def test_a_trace_that_cannot_even_be_read_is_none(spans, mode):
    async def breaking(ctx, call_next):
        ctx.job.trace = {"traceparent": TRACEPARENT, "baggage": 5}
        await call_next()

    q = traced(spans, baggage=True)
    q.pipeline("process", breaking, phase="guard")
    q.handle("work", elsewhere.current_outside, mode=mode)
    async with q:
        job = await q.enqueue("work", {})
        await run(q, "work")
        assert (await job.refresh()).status == "completed"
    assert linked(spans.one("process work")) == []


# ── ends ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Later(Snooze):
    """A verdict of the application's own."""


ERROR, UNSET = StatusCode.ERROR, StatusCode.UNSET


@pytest.mark.parametrize("returned", [False, True], ids=["raised", "returned"])
@pytest.mark.parametrize(
    ("verdict", "outcome", "status", "text"),
    [
        (Snooze(5), "snooze", UNSET, None),
        (Later(5), "snooze", UNSET, None),
        (Cancel("not wanted"), "cancel", UNSET, None),
        (Retry(after=7, reason="no answer"), "retry", ERROR, "no answer"),
        (DeadLetter("hopeless"), "dead_letter", ERROR, "hopeless"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_verdict_is_told_as_what_it_is(q, spans, *, verdict, outcome, status, text, returned):
    async def work() -> Any:
        if returned:
            return verdict
        raise verdict

    q.handle("work", work)
    async with q:
        await q.enqueue("work", {})
        await run(q, "work")
    span = spans.one("process work")
    assert (told(span, "psyqueue.job.outcome"), span.status.status_code) == (outcome, status)
    assert span.status.description == text
    kind = f"psyqueue.outcome.{type(verdict).__name__}" if status is ERROR else None
    assert (told(span, "error.type"), list(span.events)) == (kind, [])


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ValueError("no paper"), "ValueError", "no paper"),
        (SystemExit(3), "SystemExit", "3"),
        (asyncio.CancelledError(), "asyncio.exceptions.CancelledError", ""),
        (Unprintable(), f"{__name__}.Unprintable", "(its text cannot be made: __str__ raises)"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_an_exception_is_told_and_goes_on(q, spans, error, kind, text):
    async def work() -> None:
        raise error

    q.handle("work", work, max_retries=0)
    async with q:
        job = await q.enqueue("work", {})
        await run(q, "work")
        (kept,) = (await job.refresh()).errors
    span = spans.one("process work")
    assert (told(span, "psyqueue.job.outcome"), told(span, "error.type")) == ("failed", kind)
    assert (span.status.status_code, span.status.description) == (ERROR, text)
    (event,) = span.events
    assert event.name == "exception"
    attributes = event.attributes or {}
    assert (attributes["exception.type"], attributes["exception.message"]) == (kind, text)
    assert kept["type"] == kind, "tracing changes nothing about how it ends"


async def echo(n: int, text: str) -> str:
    return text


@pytest.mark.parametrize("fits", [True, False])
async def test_payload_and_result_are_in_no_span(q, spans, fits):
    async def misfit(ctx, call_next):
        ctx.job.payload = {"n": "s3cret", "text": ""}
        await call_next()

    q.handle("echo", echo)
    if not fits:
        q.pipeline("process", misfit)
    async with q:
        job = await q.enqueue("echo", {"n": 1, "text": "s3cret"})
        await run(q, "echo")
        assert (await job.refresh()).status == ("completed" if fits else "dead")
    assert len(spans.names) == 2
    assert "s3cret" not in "".join(spans.one(name).to_json() for name in spans.names)


@pytest.mark.parametrize(
    ("mode", "stop", "outcome", "kind"),
    [
        ("async", "cancel", "cancel", None),
        ("async", "release", "release", None),
        ("async", "timeout", "timeout", "psyqueue.errors.HandlerTimeout"),
        ("thread", "timeout", "timeout", "psyqueue.errors.HandlerTimeout"),
    ],
)
async def test_who_stopped_a_run_has_the_say(q, spans, mode, stop, outcome, kind):
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    async def waits() -> None:
        begun.set()
        await asyncio.Event().wait()

    def waits_in_a_thread() -> None:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(20)

    timeout = 0.001 if stop == "timeout" else None
    q.handle("work", waits if mode == "async" else waits_in_a_thread, timeout=timeout, max_retries=0)
    async with q:
        job = await q.enqueue("work", {})
        q.start_worker("work", lease="1s")
        if stop != "timeout":
            await asyncio.wait_for(begun.wait(), 20)
        if stop == "cancel":
            await job.cancel()
        if stop == "release":
            await q.stop(grace=0)
        else:
            await job.wait("20s")
        go_on.set()
    span = spans.one("process work")
    assert (told(span, "psyqueue.job.outcome"), told(span, "error.type")) == (outcome, kind)
    assert span.status.status_code is (UNSET if kind is None else ERROR)


@pytest.mark.parametrize(
    ("raised", "reason", "outcome"),
    [
        (None, "lease-lost", "lost"),
        (ValueError(), "lease-lost", "lost"),
        (None, "timeout", "timeout"),
        (None, "cancel", "completed"),
        (None, "release", "completed"),
        (ValueError(), "release", "release"),
    ],
)
def test_a_stop_counts_as_it_does_for_the_job(raised, reason, outcome):
    assert end_of(raised, reason).outcome == outcome


# ── options ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_own_attributes_are_made_of_the_job(spans):
    q = traced(spans, attributes=lambda job: {"shop.tenant": job.tenant_id, "shop.size": len(job.payload)})
    q.handle("work", lambda n: None)
    async with q:
        await q.enqueue("work", {"n": 1}, tenant="ann")
        await run(q, "work")
    span = spans.one("process work")
    assert (told(span, "shop.tenant"), told(span, "shop.size")) == ("ann", 1)


@pytest.mark.parametrize("attributes", [lambda job: job.nothing, lambda job: None, lambda job: 5])
async def test_own_attributes_that_cannot_be_made_fail_no_job_and_are_logged_once(spans, caplog, attributes):
    q = traced(spans, attributes=attributes)
    q.handle("work", lambda: "done")
    async with q:
        jobs = [await q.enqueue("work", {}) for _ in range(3)]
        await run(q, "work", "work", "work")
        assert {(await job.refresh()).result for job in jobs} == {"done"}
    (record,) = [each for each in caplog.records if each.name.startswith("psyqueue.plugins.tracing")]
    assert (record.levelname, record.job_id) == ("ERROR", jobs[0].id)
    assert len(spans.all("process work")) == 3


async def test_where_nothing_is_traced_jobs_carry_nothing():
    """The global provider is the API's own, as in a program that set none."""
    asked: list[str] = []

    def ask(job: Any) -> dict[str, str]:
        asked.append(job.id)
        return {}

    q = PsyQueue().use(memory()).use(Tracing(attributes=ask))
    q.handle("work", lambda: trace.get_current_span().is_recording())
    async with q:
        job = await q.enqueue("work", {})
        await run(q, "work")
        view = await job.refresh()
    assert (view.result, view.trace, asked) == (False, {}, [])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"relation": "child"}, "is none of link, parent"),
        ({"attributes": {"a": 1}}, "is no plain function of a job"),
        ({"attributes": echo}, "is no plain function of a job"),
    ],
)
def test_options_are_checked(options, text):
    with pytest.raises(InvalidOption, match=text):
        Tracing(**options)


def test_without_opentelemetry_the_error_says_what_to_install():
    script = "import sys; sys.modules['opentelemetry'] = None; from psyqueue.plugins import Tracing; Tracing()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "MissingExtra" in done.stderr
    assert "tracing needs a package that is not installed: pip install 'psyqueue[otel]'" in done.stderr
