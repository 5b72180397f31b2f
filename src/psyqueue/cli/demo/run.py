"""The demo from the first file to the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from psyqueue import JobView, PsyQueue
from psyqueue.backend import BackendAdapter
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.cli.demo.display import Display, Progress
from psyqueue.cli.demo.files import Selection, SourceFile, is_unchanged, select
from psyqueue.cli.demo.fleet import CONCURRENCY, Fleet
from psyqueue.cli.demo.handlers import JOB, QUEUE, make_queue
from psyqueue.cli.demo.journal import JournalReader
from psyqueue.cli.demo.place import Place, place_for
from psyqueue.cli.demo.verdict import Evidence, Kill, Verdict, judge
from psyqueue.cli.waits import on_signal
from psyqueue.clock import SystemClock
from psyqueue.errors import Refused
from psyqueue.kernel.stores import plugin_for
from psyqueue.words import counted

TICK_MS = 40
STALL_MS = 60_000
"""So long without one job more done, and something is wrong."""
RATE_WINDOW_MS = 2_000
SMALL_FILES = 600
SMALL_RUN_MS = 3_000
LINGER_MS_MAX = 1_000
"""In a small folder runs are stretched, so that the whole takes some seconds and a kill can meet a job."""


class DemoFailed(Refused):
    """The demo could not be carried through; the message says where it stood."""

    CODE: ClassVar[str] = "DEMO_FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """`keep`: leave the folder with the journal and the workers' log, and the store, where they are.

    `server`: the URL of a Redis server to make the store on; None: SQLite.
    """

    path: Path | None
    workers: int
    keep: bool
    server: str | None = None


@dataclass(slots=True, kw_only=True)
class Report:
    """What happened, for the summary. Times from the first enqueue on."""

    selection: Selection
    folder: Path
    kept: bool
    store: str
    is_on_disk: bool
    verdict: Verdict = field(default_factory=Verdict)
    kill: Kill | None = None
    recovered_after_ms: float | None = None
    enqueued_after_ms: float = 0.0
    seconds: float = 0.0
    run_ms_p50: float = 0.0
    run_ms_p95: float = 0.0
    linger_ms: int = 0
    jobs: list[JobView] = field(default_factory=list)

    @property
    def jobs_per_second(self) -> float:
        return self.verdict.processed / self.seconds if self.seconds else 0.0


class Demo:
    """One demo; `run` leaves no process behind, and no file unless told to."""

    def __init__(self, options: DemoOptions, display: Display) -> None:
        self._options = options
        self._display = display
        self._clock = SystemClock()
        self._began_ms = 0.0
        self._run_times: list[float] = []
        self._recent: deque[tuple[float, int]] = deque()

    async def run(self) -> Report:
        """Raises ConfigError without files, DemoFailed, StoreError; CancelledError when interrupted."""
        selection = select(self._options.path)
        for text in _introduction(selection):
            self._display.line(f"  {text}")
        folder = Path(tempfile.mkdtemp(prefix="psyqueue-demo-"))
        place = place_for(self._options.server, folder)
        report = Report(
            selection=selection,
            folder=folder,
            kept=self._options.keep,
            store=place.shown,
            is_on_disk=self._options.server is None,
        )
        is_opened = False
        try:
            fleet = Fleet(folder, place.url)
            async with make_queue().use(plugin_for(place.url, {})) as queue:
                is_opened = True
                try:
                    await self._carry_through(report, queue, fleet, place)
                finally:
                    await fleet.close()
        finally:
            if not self._options.keep:
                shutil.rmtree(folder, ignore_errors=True)
                if is_opened and (left := place.remove()):
                    self._display.line(f"  ! {left}")
        return report

    async def _carry_through(self, report: Report, queue: PsyQueue, fleet: Fleet, place: Place) -> None:
        # Every job is looked at in the end: none may be tidied away before.
        await queue.limits(QUEUE, retain_ended=None, retain_dead=None)
        self._began_ms = self._clock.mono_ms()
        for _ in range(self._options.workers):
            await fleet.start_one()
        pids = ", ".join(map(str, fleet.pids))
        where = place.words(await queue.get_exposed("backend").info())
        self._display.line(f"  {len(fleet.pids)} worker processes on {where}: pids {pids}")
        journal = JournalReader(report.folder / "journal.jsonl")
        enqueued = await self._enqueue(report, queue)
        await self._watch(report, queue.get_exposed("backend"), fleet, journal)
        report.seconds = self._elapsed_ms() / 1000
        problems = await fleet.drain()
        journal.read()
        report.run_ms_p50, report.run_ms_p95 = self._percentiles()
        report.jobs = await _all_jobs(queue)
        evidence = Evidence(
            enqueued=enqueued,
            jobs=report.jobs,
            entries=journal.entries,
            broken_lines=journal.unreadable + bool(journal.unfinished),
            kill=report.kill,
            changed=frozenset(file.path for file in report.selection.files if not is_unchanged(file)),
            worker_problems=problems,
        )
        report.verdict = await asyncio.to_thread(judge, evidence)

    async def _enqueue(self, report: Report, queue: PsyQueue) -> dict[str, SourceFile]:
        """One job for each file; job id → file."""
        files = report.selection.files
        if len(files) < SMALL_FILES:
            slots = self._options.workers * CONCURRENCY
            report.linger_ms = min(LINGER_MS_MAX, SMALL_RUN_MS * slots // len(files))
        common = {"journal": str(report.folder / "journal.jsonl"), "linger_ms": report.linger_ms}
        items = [{"name": JOB, "payload": {**common, "path": file.path, "is_python": file.is_python}} for file in files]
        handles = await queue.enqueue_bulk(items)
        report.enqueued_after_ms = self._elapsed_ms()
        kept = "enqueued and on disk" if report.is_on_disk else "enqueued"
        self._display.line(f"  {counted(len(handles), 'job')} {kept} after {report.enqueued_after_ms / 1000:.1f} s")
        return {handle.id: file for handle, file in zip(handles, files, strict=True)}

    # ── while it runs ─────────────────────────────────────────────────────────────────────────────────────────────
    async def _watch(self, report: Report, backend: BackendAdapter, fleet: Fleet, journal: JournalReader) -> None:
        """Until every job ended. Half-way one worker is killed and another one started."""
        total = len(report.selection.files)
        most_done, changed_at_ms = 0, self._elapsed_ms()
        while True:
            counts = await _counts(backend)
            done = counts.get("completed", 0) + counts.get("dead", 0) + counts.get("cancelled", 0)
            active = counts.get("active", 0)
            self._run_times += [entry.run_ms for entry in journal.read() if entry.what == "end"]
            self._display.progress(self._progress(done, total, active, fleet))
            if report.kill is None and (done + active) * 2 >= total and done < total:
                await self._kill(report, backend, fleet)
            if report.kill is not None and report.recovered_after_ms is None:
                await self._note_recovery(report, report.kill, backend)
            if done >= total:
                return
            if done > most_done:
                most_done, changed_at_ms = done, self._elapsed_ms()
            self._require_movement(fleet, done, total, changed_at_ms)
            await self._clock.sleep_ms(TICK_MS)

    async def _kill(self, report: Report, backend: BackendAdapter, fleet: Fleet) -> None:
        kill = await fleet.kill_one(backend, self._elapsed_ms())
        if kill is None:
            return
        report.kill = kill
        ids = ", ".join(kill.held_ids[:2]) + (", …" if len(kill.held_ids) > 2 else "")
        held = counted(len(kill.held_ids), "job")
        self._display.line(f"  ✗ kill -9 of worker {kill.worker} (pid {kill.pid}) while it held {held}: {ids}")
        name = await fleet.start_one()
        self._display.line(f"  + {name} (pid {fleet.pid(name)}) started in its place")

    async def _note_recovery(self, report: Report, kill: Kill, backend: BackendAdapter) -> None:
        """When the lease of the killed worker has ended and its jobs are free again."""
        views = await backend.get(kill.held_ids[:ITEMS_MAX])
        if any(view is not None and view.session_id == kill.session_id for view in views):
            return
        report.recovered_after_ms = self._elapsed_ms() - kill.killed_after_ms
        self._display.line(
            f"  ↺ its lease ended: {counted(len(kill.held_ids), 'job')} taken back by the other workers "
            f"{report.recovered_after_ms / 1000:.1f} s after the kill"
        )

    def _require_movement(self, fleet: Fleet, done: int, total: int, changed_at_ms: float) -> None:
        """Raises DemoFailed rather than wait for ever."""
        ended = fleet.early_ends()
        stalled_ms = self._elapsed_ms() - changed_at_ms
        if fleet.alive and stalled_ms < STALL_MS:
            return
        why = "; ".join(ended) if ended else f"nothing was done for {stalled_ms / 1000:.0f} s"
        tail = f". The workers said: {fleet.log_tail()}" if fleet.log_tail() else ""
        raise DemoFailed(f"the demo stopped at {done} of {total} files: {why}{tail}")

    # ── figures ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _elapsed_ms(self) -> float:
        return self._clock.mono_ms() - self._began_ms

    def _progress(self, done: int, total: int, active: int, fleet: Fleet) -> Progress:
        now_ms = self._elapsed_ms()
        self._recent.append((now_ms, done))
        while now_ms - self._recent[0][0] > RATE_WINDOW_MS:
            self._recent.popleft()
        since_ms, since_done = self._recent[0]
        p50, p95 = self._percentiles(last=2_000)
        return Progress(
            done=done,
            total=total,
            active=active,
            pending=total - done - active,
            workers=fleet.alive,
            elapsed_ms=now_ms,
            jobs_per_second=(done - since_done) / (now_ms - since_ms) * 1000 if now_ms > since_ms else 0.0,
            run_ms_p50=p50,
            run_ms_p95=p95,
        )

    def _percentiles(self, last: int = sys.maxsize) -> tuple[float, float]:
        times = sorted(self._run_times[-last:])
        if not times:
            return 0.0, 0.0
        return times[len(times) // 2], times[len(times) * 95 // 100]


async def _counts(backend: BackendAdapter) -> dict[str, int]:
    found, _ = await backend.queues(QUEUE, None, 1)
    return found[0].counts if found else {}


async def _all_jobs(queue: PsyQueue) -> list[JobView]:
    found: list[JobView] = []
    cursor: str | None = None
    while True:
        page = await queue.jobs(queue=QUEUE, limit=ITEMS_MAX, cursor=cursor)
        found += page.items
        cursor = page.cursor
        if cursor is None:
            return found


def _introduction(selection: Selection) -> list[str]:
    texts = [f"{len(selection.files):,} {selection.what}", "one job for each: parse it, measure it, note the result"]
    if selection.left_out:
        texts.insert(
            1, f"({selection.left_out:,} more are left out: not to be read, or beyond what a demo should take)"
        )
    return texts


@contextlib.contextmanager
def cancelled_by_signals() -> Iterator[list[int]]:
    """Inside, the first SIGINT, SIGTERM or SIGHUP cancels the current work, so that everything is tidied up.

    What comes after it does not disturb that. The list holds the signal's number afterwards.
    """
    work = asyncio.current_task()
    assert work is not None
    seen: list[int] = []

    def interrupt(number: signal.Signals) -> None:
        seen.append(number)
        if len(seen) == 1:
            work.cancel()

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        # Windows knows no SIGHUP.
        if (number := getattr(signal, name, None)) is not None:
            on_signal(number, interrupt)
    yield seen
