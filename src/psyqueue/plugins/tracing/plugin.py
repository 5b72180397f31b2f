"""`q.use(Tracing())`: the options, and OpenTelemetry imported when it is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from psyqueue.errors import InvalidOption, MissingExtra
from psyqueue.kernel.extension import Kernel

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from psyqueue import Context

Relation: TypeAlias = Literal["link", "parent"]
AttributesOf: TypeAlias = Callable[[Any], Mapping[str, Any]]


class Tracing:
    """A span for each enqueue and one for each run, with the trace of the first carried along in the job.

    `relation`: the span of a run begins a trace of its own, with a link to the enqueue, or is its child. `baggage`:
    carry W3C baggage, too. `attributes(job)`: what the span of a run has besides, given its `ctx.job`. Without
    `tracer_provider` the global one counts, whenever it is set. Raises InvalidOption, MissingExtra.
    """

    name = "tracing"

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        relation: Relation = "link",
        baggage: bool = False,
        attributes: AttributesOf | None = None,
    ) -> None:
        if relation not in get_args(Relation):
            raise InvalidOption("relation", relation, f"is none of {', '.join(get_args(Relation))}")
        if attributes is not None and (not callable(attributes) or inspect.iscoroutinefunction(attributes)):
            raise InvalidOption("attributes", attributes, "is no plain function of a job")
        if type(baggage) is not bool:
            raise InvalidOption("baggage", baggage, "is neither True nor False")
        if tracer_provider is not None and not hasattr(tracer_provider, "get_tracer"):
            raise InvalidOption("tracer_provider", tracer_provider, "is no provider of tracers")
        self._spans = _spans().Spans(tracer_provider, attributes, is_parent=relation == "parent", has_baggage=baggage)

    def init(self, kernel: Kernel) -> None:
        """Called by `use`."""
        kernel.pipeline("enqueue", self._spans.publish, phase="observe")
        kernel.pipeline("process", self._spans.process, phase="observe")


def continue_trace(ctx: Context) -> AbstractContextManager[None]:
    """Within it the span of this run is the current one: for handlers with `mode="process"`.

    Elsewhere it is that already. Raises MissingExtra.
    """
    attached: AbstractContextManager[None] = _spans().attached(ctx.job.trace)
    return attached


def _spans() -> ModuleType:
    try:
        from psyqueue.plugins.tracing import spans  # noqa: PLC0415 - it needs OpenTelemetry
    except ModuleNotFoundError as exc:
        if not (exc.name or "").startswith("opentelemetry"):
            raise
        raise MissingExtra("tracing", "otel") from exc
    return spans
