"""The two spans, and the trace context between them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context as Scope
from opentelemetry.context import attach, detach
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from psyqueue.outcome import Verdict
from psyqueue.plugins.tracing.ends import End, Failure, end_of, failure_of

if TYPE_CHECKING:
    from psyqueue import Context, Draft, EnqueueContext
    from psyqueue.plugins.tracing.plugin import AttributesOf

CallNext: TypeAlias = Callable[[], Awaitable[Any]]

log: logging.Logger = logging.getLogger(__name__)

HEADER_CHARS_MAX: Final = 8_192
"""The W3C asks nobody to read a longer one, and it shall not keep a job from being enqueued."""

_TRACE = TraceContextTextMapPropagator()
_WITH_BAGGAGE = CompositePropagator([_TRACE, W3CBaggagePropagator()])


class Spans:
    """The middleware. A job whose trace context is missing or broken runs as any other."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None,
        attributes_of: AttributesOf | None,
        *,
        is_parent: bool,
        has_baggage: bool,
    ) -> None:
        self._tracer = trace.get_tracer("psyqueue", version("psyqueue"), tracer_provider=tracer_provider)
        self._attributes_of = attributes_of
        self._is_parent = is_parent
        self._propagator: TextMapPropagator = _WITH_BAGGAGE if has_baggage else _TRACE
        self._is_told = False
        """That `attributes_of` raised: once is enough."""

    async def publish(self, ctx: EnqueueContext, call_next: CallNext) -> None:
        """Around an enqueue: one span for the call, whose context each of its jobs carries."""
        drafts = ctx.jobs
        around = self._scope_of(drafts)
        queue = _common(draft.queue for draft in drafts)
        name = "publish" if queue is None else f"publish {queue}"
        span = self._tracer.start_span(name, around, SpanKind.PRODUCER, _of_call(drafts, queue))
        inside = trace.set_span_in_context(span, around)
        if headers := self._headers(inside):
            for draft in drafts:
                # One of several that comes from elsewhere, each with a trace of its own, stays in that.
                if around is not None or not draft.trace:
                    draft.trace = dict(headers)
        token = attach(inside)
        try:
            await call_next()
            _tell_existing(span, ctx)
        except Exception as exc:
            if span.is_recording():
                _tell_failure(span, failure_of(exc))
            raise
        finally:
            detach(token)
            span.end()

    async def process(self, ctx: Context, call_next: CallNext) -> Any:
        """Around a run: its span, the current one while the handler runs."""
        job = ctx.job
        arrived = _arrived(self._propagator, job.trace)
        origin = trace.get_current_span(arrived).get_span_context()
        around = arrived if self._is_parent else trace.set_span_in_context(trace.INVALID_SPAN, arrived)
        links = [Link(origin)] if origin.is_valid and not self._is_parent else None
        span = self._tracer.start_span(f"process {job.queue}", around, SpanKind.CONSUMER, _of_run(ctx), links)
        self._describe(span, ctx)
        inside = trace.set_span_in_context(span, around)
        if headers := self._headers(inside):
            job.trace = headers
        token = attach(inside)
        try:
            result = await call_next()
            _tell_end(span, end_of(result if isinstance(result, Verdict) else None, ctx.stop_reason))
        except BaseException as exc:
            if span.is_recording():
                _tell_end(span, end_of(exc, ctx.stop_reason))
            raise
        else:
            return result
        finally:
            detach(token)
            span.end()

    def _scope_of(self, drafts: Sequence[Draft]) -> Scope | None:
        """The trace that they have already, as follow-ups have that of their run; None for that of the caller."""
        given = drafts[0].trace
        if not given or any(draft.trace != given for draft in drafts):
            return None
        return _arrived(self._propagator, given)

    def _headers(self, scope: Scope) -> dict[str, str]:
        """Empty where nothing is traced."""
        headers: dict[str, str] = {}
        self._propagator.inject(headers, scope)  # pyright: ignore[reportArgumentType] - its own default
        return {name: text for name, text in headers.items() if len(text) <= HEADER_CHARS_MAX}

    def _describe(self, span: Span, ctx: Context) -> None:
        """What is worth its price only where somebody looks."""
        if not span.is_recording():
            return
        job = ctx.job
        waited = job.started_at - max(job.created_at, job.run_at)
        span.set_attribute("psyqueue.job.wait_ms", max(0, round(waited.total_seconds() * 1000)))
        if self._attributes_of is None:
            return
        try:
            span.set_attributes(self._attributes_of(job))
        except Exception:
            if not self._is_told:
                self._is_told = True
                log.exception("the attributes of a span could not be made", extra={"job_id": job.id})


@contextmanager
def attached(headers: Mapping[str, str]) -> Iterator[None]:
    """Within it the span that `headers` name is the current one."""
    token = attach(_arrived(_WITH_BAGGAGE, headers))
    try:
        yield
    finally:
        detach(token)


def _arrived(propagator: TextMapPropagator, headers: Mapping[str, str]) -> Scope:
    """What can be read of them. Whoever wrote them, they are no reason for a job not to run."""
    try:
        return propagator.extract(headers, Scope())
    except Exception:  # noqa: BLE001 - propagators raise what their parts do
        return Scope()


def _of_call(drafts: Sequence[Draft], queue: str | None) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "messaging.system": "psyqueue",
        "messaging.operation.type": "send",
        "messaging.operation.name": "publish",
    }
    if queue is not None:
        found["messaging.destination.name"] = queue
    if (name := _common(draft.name for draft in drafts)) is not None:
        found["psyqueue.job.name"] = name
    if len(drafts) == 1:
        found["messaging.message.id"] = drafts[0].id
    else:
        found["messaging.batch.message_count"] = len(drafts)
    return found


def _of_run(ctx: Context) -> dict[str, str | int]:
    job = ctx.job
    return {
        "messaging.system": "psyqueue",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": job.queue,
        "messaging.message.id": job.id,
        "psyqueue.job.name": job.name,
        "psyqueue.job.attempt": job.attempt,
    }


def _common(texts: Iterable[str]) -> str | None:
    """The one that all are."""
    different = set(texts)
    return different.pop() if len(different) == 1 else None


def _tell_existing(span: Span, ctx: EnqueueContext) -> None:
    """A key led a lone enqueue to a job that was there before."""
    if ctx.handles is not None and len(ctx.handles) == 1 and not ctx.handles[0].created:
        span.set_attribute("messaging.message.id", ctx.handles[0].id)
        span.set_attribute("psyqueue.job.created", value=False)


def _tell_end(span: Span, end: End) -> None:
    span.set_attribute("psyqueue.job.outcome", end.outcome)
    if end.failure is not None:
        _tell_failure(span, end.failure)


def _tell_failure(span: Span, failure: Failure) -> None:
    span.set_attribute("error.type", failure.kind)
    span.set_status(Status(StatusCode.ERROR, failure.text))
    if failure.traceback:
        told = {"type": failure.kind, "message": failure.text, "stacktrace": failure.traceback}
        span.add_event("exception", {f"exception.{key}": text for key, text in told.items()})
