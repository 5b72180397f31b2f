"""Tracing: from a request to the run of its job, to the job that it enqueued, and to the spans of your own code."""

import asyncio
from tempfile import TemporaryDirectory

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from psyqueue import Context, PsyQueue
from psyqueue.backends import sqlite
from psyqueue.plugins import Tracing

exporter = InMemorySpanExporter()  # in production: BatchSpanProcessor(OTLPSpanExporter()), see docs/tracing.md
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("shop")


def make_queue(folder: str) -> PsyQueue:
    q = PsyQueue().use(sqlite(path=f"{folder}/jobs.db")).use(Tracing(relation="parent"))

    @q.handle("order.pay", queue="payments")
    async def pay(ctx: Context, order: int) -> None:
        with tracer.start_as_current_span("ask the bank"):
            ctx.enqueue("mail.receipt", {"order": order}, queue="mail")

    @q.handle("mail.receipt", queue="mail", max_retries=0)
    def send_receipt(order: int) -> None:
        raise ConnectionError(f"no mail server for order {order}")

    return q


def show(spans: tuple[ReadableSpan, ...], parent_id: int | None = None, depth: int = 0) -> None:
    """The spans as a tree, as tools for traces show them."""
    for span in spans:
        if (span.parent.span_id if span.parent else None) == parent_id:
            told = [span.attributes[key] for key in ("psyqueue.job.outcome", "error.type") if key in span.attributes]
            print("    " * depth + ": ".join([span.name, *told]))
            show(spans, span.context.span_id, depth + 1)


async def main(folder: str) -> None:
    web, worker = make_queue(folder), make_queue(folder)  # two processes, in real life
    async with web, worker:
        with tracer.start_as_current_span("POST /orders"):
            await web.enqueue("order.pay", {"order": 7})
        await worker.process_next("payments")
        await worker.process_next("mail")
    show(exporter.get_finished_spans())


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | POST /orders
# |     publish payments
# |         process payments: completed
# |             ask the bank
# |             publish mail
# |                 process mail: failed: ConnectionError
