"""Tracing on every store: the trace of an enqueue is found by each run of its job, whatever happened in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from psyqueue import PsyQueue, Retry
from psyqueue.moving import House, Mover
from psyqueue.plugins import Tracing
from support.source import TESTS
from support.spans import Recorder, ids, linked, told
from support.store_at import store_at

SHARED = ["sqlite", "redis", "postgres"]
"""Stores that several processes can share."""


@pytest.fixture
def spans() -> Recorder:
    return Recorder()


@pytest.fixture
def traced(make: Callable[..., PsyQueue], spans: Recorder) -> Callable[..., PsyQueue]:
    """A queue on the store, not started, with a plugin of its own."""

    def build(*, relation: Any = "link", test_clock: bool = False) -> PsyQueue:
        return make(test_clock=test_clock).use(Tracing(tracer_provider=spans.provider, relation=relation))

    return build


async def failing() -> None:
    raise Retry(after=30)


async def test_a_retry_and_a_replay_are_runs_of_the_same_enqueue(traced, spans):
    q = traced(test_clock=True)
    q.handle("work", failing, queue="w", max_retries=1)
    async with q:
        job = await q.enqueue("work", {})
        backend = q.get_exposed("backend")
        await backend.advance_clock(7_000)
        assert await q.process_next("w")
        await backend.advance_clock(40_000)
        assert await q.process_next("w")
        await backend.advance_clock(3_600_000)
        await q.dead_letter.replay(job.id)
        assert await q.process_next("w")
    runs = spans.all("process w")
    assert [told(span, "psyqueue.job.attempt") for span in runs] == [1, 2, 1]
    assert [linked(span) for span in runs] == [[ids(spans.one("publish w"))]] * 3
    waits = [told(span, "psyqueue.job.wait_ms") for span in runs]
    assert [int(str(wait)) // 1_000 for wait in waits] == [7, 10, 0], "since it was due, not since it was enqueued"


async def test_jobs_are_found_by_the_id_of_their_trace(traced, spans):
    q = traced()
    async with q:
        jobs = [await q.enqueue("work", {}) for _ in range(2)]
        (found,) = await q.jobs(text=ids(spans.all("publish work")[1])[0])
    assert found.id == jobs[1].id
    assert found.trace["traceparent"].split("-")[1:3] == list(ids(spans.all("publish work")[1]))


async def test_a_job_that_moves_takes_its_trace_along(traced, spans, tmp_path):
    old = traced()
    new = PsyQueue().use(store_at(tmp_path / "new.db")).use(Tracing(tracer_provider=spans.provider))
    new.handle("work", lambda: None, queue="w")
    async with old, new:
        await old.enqueue("work", {}, queue="w")
        source, target = (House(q.get_exposed("backend"), "a store") for q in (old, new))
        await Mover(source, target, wait_ms=0).run()
        assert await new.process_next("w")
    assert linked(spans.one("process w")) == [ids(spans.one("publish w"))]


@pytest.mark.parametrize("store", SHARED, indirect=True)
async def test_who_traces_and_who_does_not_run_each_others_jobs(make, traced, spans):
    plain, q = make(), traced()
    for each in (plain, q):
        each.handle("work", lambda: "done", queue="w")
    async with plain, q:
        by_plain = await plain.enqueue("work", {})
        assert await q.process_next("w")
        by_traced = await q.enqueue("work", {})
        assert await plain.process_next("w")
        assert [(await job.refresh()).result for job in (by_plain, by_traced)] == ["done", "done"]
    assert spans.names == ["process w", "publish w"]
    assert linked(spans.one("process w")) == []


APP = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from psyqueue import PsyQueue
from psyqueue.plugins import Tracing
from support.store_at import store_at

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=lambda span: span.to_json(None) + "\\n")))
trace.set_tracer_provider(provider)
q = PsyQueue().use(store_at({place!r})).use(Tracing(relation="parent"))

@q.handle("work", queue="w")
async def work() -> None:
    with trace.get_tracer("app").start_as_current_span("own"):
        pass
"""


def worker_of(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(TESTS)])}
    command = [sys.executable, "-m", "psyqueue", "worker", "app:q"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("store", SHARED, indirect=True)
async def test_a_worker_in_a_process_of_its_own_continues_the_trace(traced, spans, place, tmp_path):
    (tmp_path / "app.py").write_text(APP.format(place=place))
    q = traced()
    async with q:
        with spans.tracer.start_as_current_span("request"):
            job = await q.enqueue("work", {}, queue="w")
        with worker_of(tmp_path) as worker:
            try:
                assert (await job.wait("60s")).status == "completed"
            finally:
                worker.terminate()
            printed, _ = worker.communicate(timeout=60)
    exported = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    there = {span["name"]: span for span in exported}
    chain = [ids(spans.one(name)) for name in ("request", "publish w")]
    chain += [
        tuple(there[name]["context"][key][2:] for key in ("trace_id", "span_id")) for name in ("process w", "own")
    ]
    assert len({trace_id for trace_id, _ in chain}) == 1
    assert [there[name]["parent_id"][2:] for name in ("process w", "own")] == [span_id for _, span_id in chain[1:3]]
