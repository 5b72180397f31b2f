"""`--processes` and `--reload`: some worker processes, kept alive, drained together."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from psyqueue.cli import output
from psyqueue.cli.notify import Notifier
from psyqueue.cli.reload import changed, snapshot
from psyqueue.cli.spawned import SpawnedWorker, how_it_ended
from psyqueue.cli.surface import DISMISSED, DONE, NO
from psyqueue.cli.waits import first_of, is_set_within, on_signal
from psyqueue.clock import SystemClock
from psyqueue.kernel.aio import spawn

log: logging.Logger = logging.getLogger(__name__)

RESTART_MS = 500
RESTART_CAP_MS = 30_000
STEADY_MS = 60_000
"""A process that lived this long starts over with the short pause."""
EARLY_DEATHS_MAX = 3
"""So many deaths without one process getting ready in between, and it is no accident."""
BEYOND_GRACE_MS = 12_000
"""A worker needs up to 10 s after its grace to give up handlers that ignore their stop; then it is killed."""
AT_ONCE_MS = 3_000
WATCH_MS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorPlan:
    """`arguments(n)` are those of worker process n, from 0. `watched`: the folder of --reload, None without it."""

    arguments: Callable[[int], Sequence[str]]
    processes: int
    grace_ms: int
    is_json: bool = False
    watched: Path | None = None
    is_json_log: bool = False


class Supervisor:
    """Runs until a signal, or until its workers die as soon as they start."""

    def __init__(self, plan: SupervisorPlan, notifier: Notifier) -> None:
        self._plan = plan
        self._notifier = notifier
        self._clock = SystemClock()
        self._children: dict[int, SpawnedWorker] = {}
        self._reloading: set[int] = set()
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._source_changed = asyncio.Event()
        self._early_deaths = 0
        self._last_early = ""
        self._killed = 0
        self._ready: set[int] = set()
        self._is_announced = False

    async def run(self) -> int:
        """0 after a drain, 1 if workers had to be killed or die as soon as they start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            on_signal(number, self._signalled)
        watcher = None if self._plan.watched is None else spawn(self._watch(self._plan.watched), name="watch")
        try:
            async with self._notifier.alive(), asyncio.TaskGroup() as group:
                for slot in range(self._plan.processes):
                    group.create_task(self._keep(slot))
        finally:
            if watcher is not None:
                watcher.cancel()
            for child in self._children.values():
                child.send(signal.SIGKILL)
        if self._early_deaths >= EARLY_DEATHS_MAX and self._plan.watched is None:
            self._say(
                f"psyqueue: worker processes ended {self._early_deaths} times before they were ready "
                f"({self._last_early}); giving up. What they said stands above"
            )
            return NO
        return NO if self._killed else DONE

    # ── one place ─────────────────────────────────────────────────────────────────────────────────────────────────
    async def _keep(self, slot: int) -> None:
        """A worker process in this place, again and again."""
        pause_ms = RESTART_MS
        while not self._stop.is_set():
            began_ms = self._clock.mono_ms()
            # With --json our standard output holds one document; what the workers say goes to standard error.
            output_to = sys.stderr.fileno() if self._plan.is_json else None
            child = await SpawnedWorker.start(self._plan.arguments(slot), output=output_to)
            self._children[slot] = child
            ready = spawn(self._note_ready(slot, child), name=f"ready-{slot}")
            code = await self._until_gone(child)
            ready.cancel()
            del self._children[slot]
            self._ready.discard(slot)
            if self._stop.is_set() or self._is_dismissed(child, code):
                return
            if slot in self._reloading:
                self._reloading.discard(slot)
                continue
            if self._clock.mono_ms() - began_ms >= STEADY_MS:
                pause_ms = RESTART_MS
            if not self._note_death(child, code):
                return
            await self._pause(pause_ms)
            pause_ms = min(pause_ms * 2, RESTART_CAP_MS)

    async def _until_gone(self, child: SpawnedWorker) -> int:
        """Its return code. When we are told to stop it is drained, and killed if that takes too long."""
        gone = spawn(child.gone(), name=f"gone-{child.pid}")
        stop = spawn(self._stop.wait(), name="stop")
        await first_of(gone, stop)
        stop.cancel()
        if not gone.done():
            child.ask_to_end()
            await self._drained(child, gone)
        return await gone

    async def _drained(self, child: SpawnedWorker, gone: asyncio.Task[int]) -> None:
        again = spawn(self._stop_now.wait(), name="again")
        await first_of(gone, again, limit_ms=self._plan.grace_ms + BEYOND_GRACE_MS)
        if not gone.done() and again.done():
            child.send(signal.SIGTERM)
            await first_of(gone, limit_ms=AT_ONCE_MS)
        again.cancel()
        if not gone.done():
            self._killed += 1
            self._say(
                f"psyqueue: worker process {child.pid} did not end in time and is killed; its lease gives its jobs back"
            )
            child.send(signal.SIGKILL)

    def _is_dismissed(self, child: SpawnedWorker, code: int) -> bool:
        """Ended by `workers stop` or `drain`: nobody takes its place. The supervisor ends with the last one."""
        if code != DISMISSED:
            return False
        self._say(f"psyqueue: worker process {child.pid} was told to end, and is not started again")
        return True

    def _note_death(self, child: SpawnedWorker, code: int) -> bool:
        """Say it. False: there is no point in going on."""
        self._say(f"psyqueue: worker process {child.pid} ended ({how_it_ended(code)})")
        if child.ready.is_set():
            return True
        self._early_deaths += 1
        self._last_early = f"the last with {how_it_ended(code)}"
        if self._early_deaths >= EARLY_DEATHS_MAX and self._plan.watched is None:
            self._stop.set()
            return False
        return True

    async def _pause(self, pause_ms: float) -> None:
        """Before the next start: a while, or with --reload after a death at the start, until a file changed."""
        if self._plan.watched is not None and self._early_deaths >= EARLY_DEATHS_MAX:
            self._say("psyqueue: waiting for a file to change")
            self._source_changed.clear()
            change, stop = spawn(self._source_changed.wait(), name="change"), spawn(self._stop.wait(), name="stop")
            await first_of(change, stop)
            change.cancel()
            stop.cancel()
            return
        await is_set_within(self._stop, pause_ms)

    # ── all of them ───────────────────────────────────────────────────────────────────────────────────────────────
    async def _note_ready(self, slot: int, child: SpawnedWorker) -> None:
        await child.ready.wait()
        self._early_deaths = 0
        self._ready.add(slot)
        if not self._is_announced and len(self._ready) == self._plan.processes:
            self._is_announced = True
            self._announce([each.pid for each in self._children.values()])

    def _announce(self, pids: Sequence[int]) -> None:
        self._notifier.ready(f"{len(pids)} worker processes")
        if self._plan.is_json:
            output.print_json({"ready": True, "pid": os.getpid(), "processes": pids})
        else:
            click.echo(f"psyqueue supervisor ready: {len(pids)} worker processes, pids {', '.join(map(str, pids))}")

    def _say(self, text: str) -> None:
        """To people as it is, into a log of documents as one."""
        if self._plan.is_json_log:
            log.warning(text.removeprefix("psyqueue: "))
        else:
            output.say(text)

    def _signalled(self, _: signal.Signals) -> None:
        """Runs on the loop. The first signal drains, the second stops at once."""
        if self._stop.is_set():
            self._stop_now.set()
        else:
            self._notifier.stopping(self._plan.grace_ms + BEYOND_GRACE_MS)
        self._stop.set()

    async def _watch(self, folder: Path) -> None:
        """Restart every process, gracefully, when a Python file below `folder` changed."""
        seen = await asyncio.to_thread(snapshot, folder)
        while not await is_set_within(self._stop, WATCH_MS):
            now = await asyncio.to_thread(snapshot, folder)
            paths = changed(seen, now)
            seen = now
            if paths:
                more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
                self._say(f"psyqueue: {paths[0]}{more} changed, restarting the workers")
                self._early_deaths = 0
                self._source_changed.set()
                for slot, child in self._children.items():
                    self._reloading.add(slot)
                    spawn(child.end(self._plan.grace_ms + BEYOND_GRACE_MS), name=f"reload-{slot}")
