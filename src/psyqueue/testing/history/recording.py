"""Writing a history while it happens."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from psyqueue.backend import (
    NO_EFFECTS,
    AnyOutcome,
    BackendAdapter,
    Delivery,
    Done,
    Effects,
    Enqueued,
    Fetch,
    Filter,
    NewJob,
    Op,
    SettleReply,
)
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.errors import Refused, StoreError, StoreUnavailable
from psyqueue.testing.history.events import Ending, Enqueuing, Event, Run

R = TypeVar("R")


class Recorder:
    """One process's file. Each line is one write to a file opened for appending, so a kill leaves whole lines.

    May be used from several threads.
    """

    def __init__(self, path: Path, process: str) -> None:
        self.process = process
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock = threading.Lock()
        self._calls = 0

    def invoke(self, verb: str, **facts: Any) -> int:
        """Before a call; the number joins it with what comes of it."""
        with self._lock:
            self._calls += 1
            call = self._calls
        self._write(kind="invoke", call=call, verb=verb, **facts)
        return call

    def ok(self, call: int, **facts: Any) -> None:
        """The call returned."""
        self._write(kind="ok", call=call, **facts)

    def fail(self, call: int, problem: str) -> None:
        """The call was refused: nothing of it happened."""
        self._write(kind="fail", call=call, problem=problem)

    def unknown(self, call: int, problem: str) -> None:
        """The call may have happened."""
        self._write(kind="unknown", call=call, problem=problem)

    def start(self, run: Run) -> None:
        """A handler begins."""
        self._write(kind="start", run=run)

    def end(self, run: Run) -> None:
        """A handler is over, well or not."""
        self._write(kind="end", run=run)

    def fault(self, problem: str, victim: str) -> None:
        """Somebody did something to process `victim`: "killed" or "stopped". Write it before doing it."""
        self._write(kind="fault", problem=problem, victim=victim)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _write(self, **facts: Any) -> None:
        event = Event(process=self.process, at_ns=time.monotonic_ns(), **facts)
        os.write(self._file, msgspec.json.encode(event) + b"\n")


class RecordedBackend:
    """A backend whose `enqueue`, `settle` and `reap` are written down; every other verb goes straight through.

    `store`: its name, where a process works with several. Each of them is recorded itself, and nothing around them,
    so that it is known what happened where.
    """

    def __init__(self, backend: BackendAdapter, recorder: Recorder, *, store: str = "") -> None:
        self.backend = backend
        self.recorder = recorder
        self.store = store
        self._runs: dict[str, Run] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    async def enqueue(self, op: Op, jobs: Sequence[NewJob], effects: Effects = NO_EFFECTS) -> tuple[Enqueued, ...]:
        """As the seam says."""
        wanted = (*jobs, *effects.jobs)
        call = self.recorder.invoke("enqueue", store=self.store, jobs=tuple(map(enqueuing, wanted)))
        reply = await self._known(call, self.backend.enqueue(op, jobs, effects))
        self.recorder.ok(call, replies=tuple((each.job_id, each.created) for each in reply))
        return reply

    async def settle(
        self, op: Op, session_id: str, outcomes: Sequence[AnyOutcome], fetch: Fetch | None = None
    ) -> SettleReply:
        """As the seam says."""
        endings = tuple(Ending(self._run_of(each), type(each).__name__.lower()) for each in outcomes)
        jobs = tuple(enqueuing(job) for each in outcomes for job in each.effects.jobs)
        name = f"{op.client}/{op.channel}/{op.turn}"
        call = self.recorder.invoke("settle", store=self.store, op=name, endings=endings, jobs=jobs)
        reply = await self._known(call, self.backend.settle(op, session_id, outcomes, fetch))
        for delivery in reply.deliveries:
            self._runs[delivery.completion_token] = run_of(delivery)
        self.recorder.ok(
            call,
            verdicts=tuple(each.verdict for each in reply.settled),
            replies=tuple((made.job_id, made.created) for each in reply.settled for made in each.effects),
            deliveries=tuple(map(run_of, reply.deliveries)),
        )
        for outcome, settled in zip(outcomes, reply.settled, strict=True):
            if settled.verdict in {"ok", "lost"} and settled.status != "active":
                self._runs.pop(outcome.completion_token, None)
        return reply

    async def reap(self, limit: int) -> Done:
        """As the seam says."""
        call = self.recorder.invoke("reap", store=self.store)
        done = await self._known(call, self.backend.reap(limit))
        self.recorder.ok(call, reaped=done.ids)
        return done

    async def look(self) -> None:
        """Write down which jobs could be started there, unless the mode of the store changes meanwhile."""
        call = self.recorder.invoke("look", store=self.store)
        before = await self._known(call, self.backend.info())
        found: list[str] = []
        cursor: str | None = None
        while before.mode in ("open", "draining"):
            where = Filter(statuses=("scheduled", "pending"))
            page = await self._known(call, self.backend.list_jobs(where, cursor, ITEMS_MAX))
            found += [view.job.id for view in page.jobs if not view.held]
            cursor = page.cursor
            if cursor is None:
                break
        after = await self._known(call, self.backend.info())
        if after.epoch != before.epoch:
            self.recorder.unknown(call, f"from {before.mode} to {after.mode}")
        else:
            self.recorder.ok(call, startable=tuple(found))

    def _run_of(self, outcome: AnyOutcome) -> Run:
        return self._runs.get(outcome.completion_token, Run(outcome.job_id, 0, 0))

    async def _known(self, call: int, reply: Awaitable[R]) -> R:
        """Await it; what is raised is written down as refused or as unknown."""
        try:
            return await reply
        except (Refused, StoreError) as exc:
            is_unknown = isinstance(exc, StoreUnavailable) and exc.outcome == "unknown"
            (self.recorder.unknown if is_unknown else self.recorder.fail)(call, exc.code)
            raise
        except BaseException as exc:
            self.recorder.unknown(call, type(exc).__name__)
            raise


def run_of(delivery: Delivery) -> Run:
    """What the history says about a delivery."""
    return Run(delivery.id, delivery.generation, delivery.fence)


def enqueuing(job: NewJob) -> Enqueuing:
    """What the history says about a new job."""
    key = job.idempotency.key if job.idempotency else ""
    gate = job.gate.key if job.gate is not None else ""
    is_due = not job.delay_ms and job.run_at_ms is None and not job.needs and job.unique is None
    return Enqueuing(job.id, job.queue, job.lane, job.priority, key, is_due, gate)
