"""One worker process: start the queue and its workers, say when they are ready, drain on a signal."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable
from http import HTTPStatus

import click

from psyqueue import PsyQueue, Worker
from psyqueue.cli import output
from psyqueue.cli.notify import Notifier
from psyqueue.cli.pages import Answer, Page, PageServer, document
from psyqueue.cli.surface import BROKEN, DISMISSED, DONE
from psyqueue.cli.waits import first_of, on_signal, within
from psyqueue.cli.worker_plan import WorkerPlan
from psyqueue.errors import NamespaceMoved, PsyQueueError
from psyqueue.events import Event
from psyqueue.kernel.aio import spawn
from psyqueue.kernel.extension import HEALTH_PAGES, WebPage
from psyqueue.kernel.worker import POLL_MS

log: logging.Logger = logging.getLogger(__name__)

AT_ONCE_MS = 1_000
"""After a second signal: time to hand back what can be handed back, then the process is gone."""
LINGER_MS = 5_000
"""After the drain: time for what the application left running (its own threads); then the process is gone."""
STORE_SILENT_MS = 3 * POLL_MS
PROBE_MS = 2_000
READY_LINE = b"ready\n"


class WorkerProcess:
    """Runs the workers of `plan` on `queue`, once."""

    def __init__(self, queue: PsyQueue, plan: WorkerPlan) -> None:
        self._queue = queue
        self._plan = plan
        # A process of a supervisor is not what systemd started.
        self._notifier = Notifier() if plan.supervisor_fd is None else Notifier({})
        self._workers: list[Worker] = []
        self._signals = 0
        self._last_signal = signal.SIGTERM
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._all_started = asyncio.Event()
        self._started: set[str] = set()
        self._is_ready = False

    async def run(self, *, is_json: bool = False) -> int:
        """The exit code: 0 after a drain, 70 after a failure, 128 + signal after a second signal."""
        for number in (signal.SIGTERM, signal.SIGINT):
            on_signal(number, self._signalled)
        self._queue.events.on("worker:started", self._note_started)
        async with self._supervised(), self._notifier.alive():
            if not await self._start():
                return DONE
            try:
                await self._require_jobs()
                async with self._health() as health_url:
                    code = await self._serve(health_url, is_json=is_json)
                    drained = await self._drain()
            except BaseException:
                await self._queue.stop(grace=0)
                raise
        return drained or code

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _start(self) -> bool:
        """False: a signal came first. Raises what failed."""
        starting, stop = spawn(_failure_of(self._queue.start()), name="start"), spawn(self._stop.wait(), name="stop")
        await first_of(starting, stop)
        stop.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            return False
        if (failure := starting.result()) is not None:
            raise failure
        return True

    async def _require_jobs(self) -> None:
        """Raises NamespaceMoved: who is started beside a store that was closed would idle for ever."""
        info = await self._queue.get_exposed("backend").info()
        if info.mode == "moved":
            raise NamespaceMoved(info.moved_to)

    async def _serve(self, health_url: str | None, *, is_json: bool) -> int:
        """Until a signal or the end of a worker; the exit code so far."""
        for number, pool in enumerate(self._plan.pools):
            worker = self._queue.start_worker(
                *pool.queues, concurrency=pool.concurrency, lease=self._plan.lease, name=self._plan.name_of(number)
            )
            self._workers.append(worker)
        stop, started = spawn(self._stop.wait(), name="stop"), spawn(self._all_started.wait(), name="started")
        ended = [spawn(_ended(worker), name="ended") for worker in self._workers]
        await first_of(stop, started, *ended)
        if self._all_started.is_set() and not self._stop.is_set():
            self._is_ready = True
            try:
                self._announce(health_url, is_json=is_json)
            except OSError:
                output.give_up()  # its disk is full, its reader gone: jobs can be run all the same
            self._warn_of_strange_queues()
        while not self._stop.is_set() and (left := [each for each in ended if not each.done()]):
            await first_of(stop, *left)
            if self._failed():
                break
        for wait in (stop, started, *ended):
            wait.cancel()
        if self._stop.is_set():
            return DONE
        if not self._failed():
            # Told to end by an operator: a supervisor starts none in its place.
            return DONE if self._plan.supervisor_fd is None else DISMISSED
        failures = [str(worker.failure) for worker in self._workers if worker.failure is not None]
        self._say(f"a worker ended by a failure: {'; '.join(failures) or 'it stopped by itself'}")
        return BROKEN

    def _failed(self) -> bool:
        """Whether a worker ended that nobody told to."""
        return any(not worker.is_running and not worker.was_ordered for worker in self._workers)

    async def _drain(self) -> int:
        """Within the grace, or at once after a second signal. 0, or the exit code of an end that was not clean."""
        self._is_ready = False
        stopping = spawn(self._queue.stop(grace=self._plan.grace_ms / 1000), name="drain", is_awaited=True)
        again = spawn(self._stop_now.wait(), name="again")
        await first_of(stopping, again)
        again.cancel()
        if not stopping.done():
            for worker in self._workers:
                spawn(worker.stop(grace=0), name="cut")
            await first_of(stopping, limit_ms=AT_ONCE_MS)
            if not stopping.done():
                _exit_now(128 + self._last_signal)
        try:
            stopping.result()
        except (PsyQueueError, ExceptionGroup) as exc:
            self._say(f"not everything could be stopped: {exc}")
            return BROKEN
        return 128 + self._last_signal if self._stop_now.is_set() else DONE

    def _signalled(self, number: signal.Signals) -> None:
        self._last_signal = number
        self._signals += 1
        if self._signals == 1:
            log.info("draining", extra={"signal": self._last_signal.name, "grace_ms": self._plan.grace_ms})
            self._notifier.stopping(self._plan.grace_ms + AT_ONCE_MS + LINGER_MS)
            self._stop.set()
        elif self._signals == 2:
            log.warning("stopping at once", extra={"signal": self._last_signal.name})
            self._stop_now.set()
        else:
            _exit_now(128 + number)

    # ── telling ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _note_started(self, event: Event) -> None:
        self._started.add(event.data["worker"])
        if len(self._started) >= len(self._plan.pools):
            self._all_started.set()

    def _say(self, text: str) -> None:
        """To people as it is, into a log of documents as one."""
        if self._plan.log_format == "json":
            log.error(text)
        else:
            output.say(f"psyqueue: {text}")

    def _announce(self, health_url: str | None, *, is_json: bool) -> None:
        self._notifier.ready(f"{', '.join(each.name for each in self._workers)}")
        facts = {
            "ready": True,
            "pid": os.getpid(),
            "workers": [
                {"worker": each.name, "queues": each.health()["queues"], "slots": each.options.concurrency}
                for each in self._workers
            ],
            "health": None if health_url is None else f"{health_url}/healthz",
        }
        if is_json:
            output.print_json(facts)
            return
        pools = "; ".join(
            f"{', '.join(each.health()['queues'])} ({each.options.concurrency})" for each in self._workers
        )
        health = f", health {facts['health']}" if health_url else ""
        text = f"psyqueue worker ready: pid {os.getpid()}, queues {pools}, lease {self._plan.lease}{health}"
        click.echo(output.clean(text))

    def _warn_of_strange_queues(self) -> None:
        """Right for jobs that are enqueued with `queue=`; else a name is written wrongly, and the worker idles."""
        known = self._queue._core.handlers.queues()  # noqa: SLF001 - the command runs what the application registered
        for name in (name for pool in self._plan.pools for name in pool.queues if name not in known):
            log.warning("no handler has this queue: only jobs enqueued to it by name come", extra={"queue": name})

    @contextlib.asynccontextmanager
    async def _supervised(self) -> AsyncIterator[None]:
        """Tell the supervisor when ready; drain when it is gone, also when it was killed."""
        if self._plan.supervisor_fd is None:
            yield
            return
        connection = socket.socket(fileno=self._plan.supervisor_fd)
        reader, writer = await asyncio.open_connection(sock=connection)
        told = spawn(self._tell_ready(writer), name="tell-ready")
        orphaned = spawn(self._note_orphaned(reader), name="orphaned")
        try:
            yield
        finally:
            told.cancel()
            orphaned.cancel()
            writer.close()

    async def _tell_ready(self, writer: asyncio.StreamWriter) -> None:
        await self._all_started.wait()
        writer.write(READY_LINE)
        with contextlib.suppress(OSError):
            await writer.drain()

    async def _note_orphaned(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        log.warning("the supervisor is gone, draining")
        self._stop.set()

    # ── health ────────────────────────────────────────────────────────────────────────────────────────────────────
    @contextlib.asynccontextmanager
    async def _health(self) -> AsyncIterator[str | None]:
        if self._plan.health_port is None:
            yield None
            return
        own = dict(zip(HEALTH_PAGES, (self._healthz, self._readyz), strict=True))
        pages = {**own, **{path: _shown(page) for path, page in self._queue._core.registry.pages.items()}}  # noqa: SLF001
        server = PageServer(pages, option="--health-port")
        try:
            yield await server.start(self._plan.health_host, self._plan.health_port)
        finally:
            await server.stop()

    async def _healthz(self) -> Answer:
        # One that an operator told to end is gone for good reason.
        working = [worker for worker in self._workers if worker.is_running or not worker.was_ordered]
        facts = [{**worker.health(), "is_running": worker.is_running} for worker in working]
        ages = [fact["store_call_age_ms"] for fact in facts]
        are_running = bool(facts) and all(fact["is_running"] for fact in facts)
        has_answered = bool(ages) and all(age is not None and age <= STORE_SILENT_MS for age in ages)
        if are_running and not has_answered:
            # A worker whose slots are all taken by long handlers has nothing to call the store for: ask it now.
            has_answered = None not in ages and await self._does_store_answer()
        about = {"pid": os.getpid(), "store_answers": has_answered, "workers": facts}
        return document(are_running and has_answered, about)

    async def _does_store_answer(self) -> bool:
        try:
            await within(self._queue.get_exposed("backend").info(), PROBE_MS)
        except (PsyQueueError, TimeoutError):
            return False
        return True

    async def _readyz(self) -> Answer:
        facts = [worker.health() for worker in self._workers]
        about = {
            "pid": os.getpid(),
            "ready": self._is_ready,
            "stopping": self._stop.is_set(),
            "loop_turn_age_ms": max((fact["loop_turn_age_ms"] for fact in facts), default=None),
        }
        return document(self._is_ready, about)


def _shown(page: WebPage) -> Page:
    async def show() -> Answer:
        content_type, body = await page()
        return Answer(HTTPStatus.OK, content_type, body)

    return show


async def _failure_of(work: Awaitable[None]) -> Exception | None:
    """Told once, by who awaits it: the failure of a task would be logged as well."""
    try:
        await work
    except Exception as exc:  # noqa: BLE001 - handed on
        return exc
    return None


async def _ended(worker: Worker) -> None:
    with contextlib.suppress(Exception):  # it stays in worker.failure
        await worker.wait()


def exit_hanging() -> None:
    """The event loop stands still: say where, and be gone. Called in the lease thread."""
    os.write(2, b"psyqueue: the event loop hangs; its jobs go to other workers when the lease ends. Exit 70\n")
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    os._exit(BROKEN)


def exit_soon(code: int) -> None:
    """Whatever the application left running must not keep a drained worker alive."""
    gone = threading.Event()

    def watch() -> None:
        gone.wait(LINGER_MS / 1000)
        _exit_now(code)

    threading.Thread(target=watch, name="psyqueue-exit", daemon=True).start()


def _exit_now(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
