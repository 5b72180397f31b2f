"""The demo's worker processes: ordinary `psyqueue worker` processes on one store, and the end of one of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from psyqueue.backend import BackendAdapter, Filter, SessionInfo
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.cli.demo.handlers import QUEUE
from psyqueue.cli.demo.verdict import Kill
from psyqueue.cli.spawned import SpawnedWorker, how_it_ended
from psyqueue.cli.surface import URL_VARIABLE

CONCURRENCY = 4
LEASE_MS = 2_000
"""Short, so that the demo need not wait for the usual 30 s."""
END_MS = 15_000
LOG_TAIL_CHARS = 2_000


class Fleet:
    """Workers by name. Every process that was started here is gone after `close`."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url
        self._log_file = folder / "workers.log"
        self._workers: dict[str, SpawnedWorker] = {}
        self._killed: set[str] = set()

    async def start_one(self) -> str:
        """Start another worker process; its name."""
        name = f"demo-{len(self._workers) + 1}"
        arguments = ["worker", "psyqueue.cli.demo.handlers:q", "--name", name]
        arguments += ["--lease", f"{LEASE_MS}ms", "--concurrency", str(CONCURRENCY), "--log-level", "error"]
        # Not in the current folder: its files could take the place of modules that the worker imports.
        with self._log_file.open("ab") as log:
            # By the environment: every user of the machine can read a command line, and a URL may hold a password.
            environment = {**os.environ, URL_VARIABLE: self._url}
            self._workers[name] = await SpawnedWorker.start(
                arguments, cwd=self._folder, environment=environment, output=log
            )
        return name

    def pid(self, name: str) -> int:
        return self._workers[name].pid

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self._workers.values()]

    @property
    def alive(self) -> int:
        return sum(worker.returncode is None for worker in self._workers.values())

    def early_ends(self) -> list[str]:
        """Workers that ended although nobody told them to."""
        ended: list[str] = []
        for name, worker in self._workers.items():
            code = worker.returncode
            if code is not None and name not in self._killed:
                ended.append(f"{name} ended by itself ({how_it_ended(code)})")
        return ended

    def log_tail(self) -> str:
        """The last that the workers said."""
        try:
            return self._log_file.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARS:].strip()
        except OSError:
            return ""

    async def kill_one(self, backend: BackendAdapter, elapsed_ms: float) -> Kill | None:
        """Kill -9 for one worker, while it provably holds jobs. None: at this moment none could be caught with one.

        It is stopped first (SIGSTOP), so that what the store then says of it stays true until it is dead.
        """
        for info in await _sessions_by_held(backend):
            name = info.session.worker
            worker = self._workers.get(name)
            if worker is None or worker.returncode is not None or name in self._killed:
                continue
            worker.send(signal.SIGSTOP)
            if not await _held_by(backend, info.session.id):
                worker.send(signal.SIGCONT)
                continue
            self._killed.add(name)
            worker.send(signal.SIGKILL)
            await worker.gone()
            # Read once more: what it had committed just before it was stopped counts too.
            held = await _held_by(backend, info.session.id)
            return Kill(
                worker=name,
                pid=worker.pid,
                session_id=info.session.id,
                held_ids=held,
                killed_after_ms=round(elapsed_ms),
            )
        return None

    async def drain(self) -> list[str]:
        """End all workers as a deploy would, with SIGTERM. What went wrong, in words."""
        problems = self.early_ends()
        for worker in self._workers.values():
            worker.ask_to_end()
        for name, worker in self._workers.items():
            if worker.returncode is not None:
                continue
            if not await worker.end(END_MS):
                problems.append(f"{name} did not end within {END_MS // 1000} s of SIGTERM")
            elif (code := await worker.gone()) != 0:
                problems.append(f"{name} drained badly ({how_it_ended(code)})")
        return problems

    async def close(self) -> None:
        """Whatever still runs is killed."""
        for worker in self._workers.values():
            worker.send(signal.SIGKILL)
        for worker in self._workers.values():
            await worker.gone()


async def _sessions_by_held(backend: BackendAdapter) -> list[SessionInfo]:
    """Open sessions, the one that holds most first."""
    found: list[SessionInfo] = []
    cursor: str | None = None
    while True:
        page, cursor = await backend.sessions(cursor, ITEMS_MAX)
        found += page
        if cursor is None:
            return sorted((info for info in found if info.held), key=lambda info: -info.held)


async def _held_by(backend: BackendAdapter, session_id: str) -> tuple[str, ...]:
    """Ids of the active jobs of a session."""
    held: list[str] = []
    cursor: str | None = None
    where = Filter(queues=(QUEUE,), statuses=("active",))
    while True:
        page = await backend.list_jobs(where, cursor, ITEMS_MAX)
        held += [view.job.id for view in page.jobs if view.session_id == session_id]
        cursor = page.cursor
        if cursor is None:
            return tuple(held)


def cpu_count() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
