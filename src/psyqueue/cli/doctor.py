"""`psyqueue doctor`: is this set-up sane?"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import click

from psyqueue import PsyQueue
from psyqueue.backend import BackendAdapter, Info, SessionInfo
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.cli import output
from psyqueue.cli.check import broken_invariants
from psyqueue.cli.findings import Finding, Seen, finding
from psyqueue.cli.postgres_store import postgres_options
from psyqueue.cli.queues import is_paused
from psyqueue.cli.reading import all_queues, all_sessions
from psyqueue.cli.redis_store import redis_options
from psyqueue.cli.sqlite_store import require_file, sqlite_file
from psyqueue.cli.surface import DONE, NO, Surface, common
from psyqueue.clock import SystemClock, to_datetime
from psyqueue.config import parse_url
from psyqueue.errors import PsyQueueError

DAY_MS = 86_400_000
SKEW_MS_MAX = 2_000
CHECKED_PAGES_MAX = 20
"""10,000 jobs: a look that stays short on a large store. `psyqueue check` walks all of it."""
NAMES_SHOWN_MAX = 5


@click.command()
@common
def doctor(surface: Surface) -> int:
    """Check the store and everything around it. Exit code 1 if a check fails."""
    url = surface.require_url()
    surface.queue()  # an address that cannot be meant is wrong use, no finding
    if (file := sqlite_file(url)) is not None:
        require_file(file)
    findings = asyncio.run(_findings(surface, url))
    is_ok = all(each.ok for each in findings)
    if surface.is_json:
        output.print_json({"ok": is_ok, "checks": findings})
    else:
        rows = [("ok" if each.ok else "FAILED", each.name, each.detail) for each in findings]
        output.print_table(("", "check", "found"), rows, empty="")
        for each in findings:
            if not each.ok:
                click.echo(output.clean(f"\n{each.name}: {each.detail}\n  {each.advice}"))
    return DONE if is_ok else NO


async def _findings(surface: Surface, url: str) -> list[Finding]:
    """First what can be seen from outside, then what the store itself says."""
    found: list[Finding] = []
    file = sqlite_file(url)
    if file is not None:
        from psyqueue.cli.doctor_sqlite import sqlite_findings  # noqa: PLC0415 - only for SQLite stores

        found += await asyncio.to_thread(lambda: list(sqlite_findings(file)))
    told: Collection[str] = ()
    if (seen := await _look(url)) is not None:
        found += seen.findings
        told = seen.warnings
        if not seen.has_store:
            return found
    try:
        async with surface.queue() as queue:
            found += await _inside(queue, url, told)
    except PsyQueueError as exc:
        found.append(Finding("store", False, exc.message, "Nothing can be enqueued or run before this is mended"))
    return found


async def _look(url: str) -> Seen | None:
    """At the server of a store that has one."""
    if (on_redis := redis_options(url)) is not None:
        from psyqueue.cli import doctor_redis  # noqa: PLC0415 - only for Redis stores

        return await doctor_redis.look(on_redis)
    if (on_postgres := postgres_options(url)) is not None:
        from psyqueue.cli import doctor_postgres  # noqa: PLC0415 - only for PostgreSQL stores

        return await doctor_postgres.look(on_postgres)
    return None


async def _inside(queue: PsyQueue, url: str, told: Collection[str] = ()) -> list[Finding]:
    """`told`: warnings of the store that were findings already."""
    backend: BackendAdapter = queue.get_exposed("backend")
    info = await backend.info()
    file = sqlite_file(url)
    found = [Finding("store", True, f"{info.store} {info.version}, schema {info.schema}")]
    if file is not None:
        from psyqueue.cli.doctor_sqlite import synchronous_finding  # noqa: PLC0415 - only for SQLite stores

        durability = parse_url(url).options.get("durability", "full")
        found.append(await asyncio.to_thread(synchronous_finding, file, durability, info.power_loss))
    else:
        found.append(_clock(info))
    found += [_mode(info), _warnings(info, told)]
    sessions = await all_sessions(backend)
    found += _sessions(sessions)
    found.append(await _unserved(backend, sessions, info.now_ms))
    found.append(await _dead(queue, info.now_ms))
    found.append(await _invariants(backend))
    return found


def _clock(info: Info) -> Finding:
    """Of the store's machine and this one. On SQLite they are the same."""
    skew_ms = abs(info.now_ms - SystemClock().now_ms())
    advice = "run_at and schedules go by the store's clock; let both machines keep time (NTP)"
    return finding("clock", skew_ms <= SKEW_MS_MAX, f"the store's clock is {skew_ms} ms away from this one", advice)


def _mode(info: Info) -> Finding:
    moved = f", moved to {info.moved_to}" if info.moved_to else ""
    advice = "The store is being moved or was: finish or undo the move, and point applications at the new place"
    return finding("mode", info.mode == "open", f"{info.mode}{moved}", advice)


def _warnings(info: Info, told: Collection[str] = ()) -> Finding:
    warnings = [each for each in info.warnings if each not in told]
    advice = "Each says what is at risk. `psyqueue durability` shows what the store promises"
    none = "none but those above" if info.warnings else "the store has none"
    return finding("warnings", not warnings, "; ".join(warnings) or none, advice)


def _sessions(sessions: Sequence[SessionInfo]) -> list[Finding]:
    """Late: the lease ended and nobody has taken the jobs back, which any running worker would."""
    late = [info for info in sessions if info.expires_in_ms < 0]
    stranded = sum(info.held for info in late)
    names = _some([info.session.worker for info in late])
    detail = f"{len(late)} of {len(sessions)} late: {names}" if late else f"{len(sessions)} open, none late"
    advice = "These workers are dead or hang. Any running worker takes their jobs back: start one"
    return [
        finding("worker sessions", not late, detail, advice),
        finding("stranded jobs", not stranded, f"{stranded} held by late sessions", advice),
    ]


async def _unserved(backend: BackendAdapter, sessions: Sequence[SessionInfo], now_ms: int) -> Finding:
    served = {name for info in sessions for name in info.session.queues if info.expires_in_ms >= 0}
    waiting = [
        f"{info.queue} ({info.counts.get('pending', 0):,})"
        for info in await all_queues(backend)
        if info.counts.get("pending", 0) and info.queue not in served and not is_paused(info, now_ms)
    ]
    detail = _some(waiting) if waiting else "every queue with pending jobs has a worker"
    advice = "Nobody takes these jobs: start a worker for the queue, psyqueue worker module:queue --queues NAME"
    return finding("queues without worker", not waiting, detail, advice)


async def _dead(queue: PsyQueue, now_ms: int) -> Finding:
    since = to_datetime(now_ms - DAY_MS)
    count, cursor = 0, None
    while True:
        page = await queue.dead_letter.list(limit=ITEMS_MAX, cursor=cursor)
        count += sum(view.completed_at is not None and view.completed_at >= since for view in page)
        cursor = page.cursor
        if cursor is None:
            break
    advice = "Look at their errors with `psyqueue dead ls`, mend the cause, then `psyqueue dead replay`"
    return finding("dead in the last day", not count, f"{count:,} jobs", advice)


async def _invariants(backend: BackendAdapter) -> Finding:
    problems, is_complete = await broken_invariants(backend, pages_max=CHECKED_PAGES_MAX)
    looked = "all jobs" if is_complete else f"the first {CHECKED_PAGES_MAX * 500:,} jobs (psyqueue check walks all)"
    detail = f"{len(problems)}: {_some(problems)}" if problems else f"none broken in {looked}"
    return finding(
        "invariants", not problems, detail, "This is a defect of psyqueue or a damaged file: please report it"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN_MAX} more" if len(names) > NAMES_SHOWN_MAX else ""
    return ", ".join(names[:NAMES_SHOWN_MAX]) + more
