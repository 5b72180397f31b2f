"""`psyqueue doctor`: is this set-up sane?"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import click

from psyqueue import PsyQueue
from psyqueue.backend import BackendAdapter, Info
from psyqueue.backend.compose import all_queues, all_sessions
from psyqueue.cli import output
from psyqueue.cli.check import broken_invariants
from psyqueue.cli.doctor_jobs import Known, job_findings, look_at
from psyqueue.cli.doctor_workers import SKEW_MS_MAX, worker_findings
from psyqueue.cli.findings import Finding, Seen, finding, some
from psyqueue.cli.postgres_store import postgres_options
from psyqueue.cli.redis_store import redis_options
from psyqueue.cli.sqlite_store import require_file, sqlite_file, sqlite_options
from psyqueue.cli.surface import DONE, NO, Surface, on_store
from psyqueue.clock import SystemClock
from psyqueue.errors import PsyQueueError

CHECKED_PAGES_MAX = 20
"""10,000 jobs: a look that stays short on a large store. `psyqueue check` walks all of it."""


@click.command()
@on_store
def doctor(surface: Surface) -> int:
    """Check the store and everything around it. Exit code 1 if a check fails."""
    queue = surface.queue()  # what cannot be meant is wrong use, no finding
    if (file := sqlite_file(queue.get_exposed("backend"))) is not None:
        require_file(file)
    findings = asyncio.run(_findings(queue, _known_to(surface)))
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


def _known_to(surface: Surface) -> Known | None:
    application = surface.application()
    if application is None or surface.app is None:
        return None
    handlers = application._core.handlers  # noqa: SLF001 - an operator looks at what an application knows
    return Known(surface.app, lambda name: handlers.find(name) is not None)


async def _findings(queue: PsyQueue, known: Known | None = None) -> list[Finding]:
    """First what can be seen from outside, then what the store itself says."""
    found: list[Finding] = []
    backend: BackendAdapter = queue.get_exposed("backend")
    file = sqlite_file(backend)
    if file is not None:
        from psyqueue.cli.doctor_sqlite import sqlite_findings  # noqa: PLC0415 - only for SQLite stores

        found += await asyncio.to_thread(lambda: list(sqlite_findings(file)))
    told: Collection[str] = ()
    if (seen := await _look(backend)) is not None:
        found += seen.findings
        told = seen.warnings
        if not seen.has_store:
            return found
    try:
        async with queue:
            found += await _inside(backend, told, known)
    except PsyQueueError as exc:
        found.append(Finding("store", False, exc.message, "Nothing can be enqueued or run before this is mended"))
    return found


async def _look(backend: BackendAdapter) -> Seen | None:
    """At the server of a store that has one."""
    if (on_redis := redis_options(backend)) is not None:
        from psyqueue.cli import doctor_redis  # noqa: PLC0415 - only for Redis stores

        return await doctor_redis.look(on_redis)
    if (on_postgres := postgres_options(backend)) is not None:
        from psyqueue.cli import doctor_postgres  # noqa: PLC0415 - only for PostgreSQL stores

        return await doctor_postgres.look(on_postgres)
    return None


async def _inside(backend: BackendAdapter, told: Collection[str], known: Known | None) -> list[Finding]:
    """`told`: warnings of the store that were findings already."""
    info = await backend.info()
    on_sqlite = sqlite_options(backend)
    found = [Finding("store", True, f"{info.store} {info.version}, schema {info.schema}")]
    if on_sqlite is not None and not on_sqlite.is_memory:
        from psyqueue.cli.doctor_sqlite import synchronous_finding  # noqa: PLC0415 - only for SQLite stores

        found.append(await asyncio.to_thread(synchronous_finding, on_sqlite, info.power_loss))
    else:
        found.append(_clock(info))
    found += [_mode(info), _warnings(info, told)]
    sessions, queues = await all_sessions(backend), await all_queues(backend)
    found += worker_findings(sessions)
    if info.mode != "moved":  # what is left in a store that moved out needs nobody's care
        found += job_findings(await look_at(backend, queues, sessions, info.now_ms), known)
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


async def _invariants(backend: BackendAdapter) -> Finding:
    problems, is_complete = await broken_invariants(backend, pages_max=CHECKED_PAGES_MAX)
    looked = "all jobs" if is_complete else f"the first {CHECKED_PAGES_MAX * 500:,} jobs (psyqueue check walks all)"
    detail = f"{len(problems)}: {some(problems)}" if problems else f"none broken in {looked}"
    return finding(
        "invariants", not problems, detail, "This is a defect of psyqueue or a damaged file: please report it"
    )
