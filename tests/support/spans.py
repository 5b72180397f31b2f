"""A tracer provider whose ended spans can be looked at, as an application would set it up with an exporter."""

from __future__ import annotations

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, Tracer


class Recorder:
    """`provider` is for Tracing, `tracer` for spans of the test's own."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer: Tracer = self.provider.get_tracer("test")

    @property
    def names(self) -> list[str]:
        """Of the ended spans, in the order of their ends."""
        return [span.name for span in self._exporter.get_finished_spans()]

    def all(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.all(name)
        return span


def ids(span: ReadableSpan | SpanContext | None) -> tuple[str, str]:
    """The ids of its trace and of itself, as headers have them."""
    found = span.get_span_context() if isinstance(span, ReadableSpan) else span
    assert found is not None
    return f"{found.trace_id:032x}", f"{found.span_id:016x}"


def told(span: ReadableSpan, name: str) -> object:
    """The attribute, None where it is not there."""
    return (span.attributes or {}).get(name)


def linked(span: ReadableSpan) -> list[tuple[str, str]]:
    """The ids of what it links to."""
    return [ids(link.context) for link in span.links]
