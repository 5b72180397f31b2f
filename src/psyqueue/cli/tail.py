"""`psyqueue jobs tail`: what becomes of jobs, line by line as it happens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import click
import msgspec
from msgspec import Struct

from psyqueue import JobView, PsyQueue
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.cli import colour, output
from psyqueue.cli.surface import DONE, NO, Surface, on_store, with_queue
from psyqueue.clock import SystemClock, to_datetime, to_ms
from psyqueue.errors import JobNotFound, StoreError
from psyqueue.job import LIVE, STATUSES, TERMINAL, Status
from psyqueue.kernel.aio import spawn
from psyqueue.operating.query import Term, check_terms
from psyqueue.operating.selection import Selection

_LIVE: tuple[Status, ...] = tuple(status for status in STATUSES if status in LIVE)
INTERVAL_MS_MIN = 50


class Seen(Struct, frozen=True):
    """What of a job is worth a line when it changes."""

    status: str
    attempt: int
    generation: int
    errors: int
    progress: Any


class Change(Struct, frozen=True, omit_defaults=True):
    """One line. `before` is empty for a job that is seen for the first time; `status` "gone": it was deleted."""

    at: datetime
    id: str
    queue: str
    name: str
    status: str
    before: str = ""
    attempt: int = 0
    worker: str = ""
    reason: str = ""
    error: str = ""
    progress: Any = None


class Follower:
    """Compares what it is shown with what it saw before."""

    def __init__(self) -> None:
        self._seen: dict[str, Seen] = {}
        self._views: dict[str, JobView] = {}

    @property
    def live(self) -> list[str]:
        """Jobs that have not ended when they were last seen."""
        return [job_id for job_id, view in self._views.items() if view.status in LIVE]

    def look(self, views: Sequence[JobView], gone: Sequence[str], at: datetime) -> Iterator[Change]:
        """What changed."""
        for view in views:
            now = Seen(view.status, view.attempt, view.generation, len(view.errors), view.progress)
            before = self._seen.get(view.id)
            self._seen[view.id], self._views[view.id] = now, view
            if before != now:
                yield _change(view, before, at)
        for job_id in gone:
            last = self._views.pop(job_id)
            yield Change(at, job_id, last.queue, last.name, "gone", before=self._seen.pop(job_id).status)


def _change(view: JobView, before: Seen | None, at: datetime) -> Change:
    error = view.errors[-1] if view.errors and (before is None or before.errors != len(view.errors)) else None
    return Change(
        at,
        view.id,
        view.queue,
        view.name,
        view.status,
        before="" if before is None else before.status,
        attempt=view.attempt,
        worker=view.worker or "",
        reason=view.reason,
        error="" if error is None else f"{error.get('type', '')}: {error.get('message', '')}",
        progress=view.progress,
    )


@click.command("tail")
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@click.option("--where", metavar="FILTER", help="All that fit and have not ended, e.g. 'queue:mail'.")
@click.option("--interval", default="500ms", show_default=True, metavar="DURATION", help="Between two looks.")
@click.option("--for", "limit", metavar="DURATION", help="For so long at most.")
@on_store
def jobs_tail(surface: Surface, job_ids: tuple[str, ...], where: str | None, interval: str, limit: str | None) -> int:
    """Follow jobs: a line for each change, until those named have ended, or until Ctrl-C.

    Exit code 1 if one of the jobs that were named did not complete.
    """
    if bool(job_ids) == (where is not None):
        raise click.UsageError("name the jobs by their ids, or by --where FILTER; --where '' means all")
    terms = None if where is None else check_terms(where)
    interval_ms = to_ms("interval", interval, minimum_ms=INTERVAL_MS_MIN)
    limit_ms = None if limit is None else to_ms("for", limit)

    async def work(queue: PsyQueue) -> int:
        clock, follower = SystemClock(), Follower()
        until_ms = None if limit_ms is None else clock.mono_ms() + limit_ms
        while True:
            views = await _named(queue, job_ids) if terms is None else await _meant(queue, terms, follower)
            there = {view.id for view in views}
            gone = [job_id for job_id in follower.live if job_id not in there]
            for change in follower.look(views, gone, to_datetime(clock.now_ms())):
                _print(surface, change)
            if terms is None and all(view.status in TERMINAL for view in views):
                return DONE if all(view.status == "completed" for view in views) else NO
            if until_ms is not None and clock.mono_ms() >= until_ms:
                return DONE if terms is not None else NO
            await _until_news(queue, follower.live, interval_ms)

    try:
        return with_queue(surface, work)
    except KeyboardInterrupt:
        return DONE


async def _named(queue: PsyQueue, job_ids: Sequence[str]) -> list[JobView]:
    views: list[JobView] = []
    for job_id in dict.fromkeys(job_ids):
        view = await queue.get(job_id)
        if view is None:
            raise JobNotFound(job_id)
        views.append(view)
    return views


async def _meant(queue: PsyQueue, terms: tuple[Term, ...], follower: Follower) -> list[JobView]:
    """Those that fit now, and those that did and have ended since."""
    views = await (await Selection.open(queue, terms, _LIVE)).glance()
    there = {view.id for view in views}
    for job_id in follower.live:
        if job_id not in there and (ended := await queue.get(job_id)) is not None:
            views.append(ended)
    return views


async def _until_news(queue: PsyQueue, job_ids: Sequence[str], interval_ms: int) -> None:
    """The interval, or less: until one of these jobs has ended."""
    wait = queue.get_exposed("backend").wait((), tuple(job_ids)[:ITEMS_MAX], interval_ms)
    ended = spawn(wait, name="tail", is_awaited=True)
    passed = spawn(SystemClock().sleep_ms(interval_ms), name="tail-interval")
    try:
        await asyncio.wait((ended, passed) if job_ids else (passed,), return_when=asyncio.FIRST_COMPLETED)
        if ended.done() and not ended.cancelled() and isinstance(ended.exception(), StoreError):
            await passed
    finally:
        ended.cancel()
        passed.cancel()


def _print(surface: Surface, change: Change) -> None:
    if surface.is_json:
        click.echo(msgspec.json.encode(change, enc_hook=str).decode())
        return
    moved = f"{change.before} → {change.status}" if change.before not in ("", change.status) else change.status
    told = [f"attempt {change.attempt}" if change.attempt else "", f"on {change.worker}" if change.worker else ""]
    told += [change.reason, change.error]
    if change.progress is not None:
        told.append(f"progress {output.text_of(change.progress)}")
    more = output.clean(", ".join(each for each in told if each)).replace("\n", " ")
    time = change.at.astimezone().strftime("%H:%M:%S")
    text = f"{time}  {output.clean(change.id)}  {output.cell(change.name)}  {colour.of_word(change.status, moved)}"
    click.echo(f"{text}  {more}".rstrip())
