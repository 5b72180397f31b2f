"""Moving house: how many jobs a second, beside how fast the destination takes new ones in.

    python -m benchmarks.moving --to redis --jobs 1000000

A store of plain jobs in an SQLite file (durability "normal" while it is filled) moves into an empty store. Before that
the same server takes new jobs, 100,000 at most, in calls of 500, one after the other, into another store: the
yardstick. The destination is read back besides being written, so the whole move is slower than its copy.

Client and server work at once, on a core each. Where they share those with others, processor time says more than speed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.spec import Facts, Spec
from benchmarks.stores import STORES

from benchmarks import machine, servers
from psyqueue import PsyQueue
from psyqueue.backend import BackendAdapter, NewJob, Op
from psyqueue.ids import new_id, new_token
from psyqueue.moving import House, Mover, Progress

CALL = 500
YARDSTICK_MAX = 100_000
TEXT_CHARS = 180


def plain_job(job_id: str) -> NewJob:
    """Each has a text of its own: equal ones share their memory and their hash in a script of Redis."""
    text = (job_id * TEXT_CHARS)[:TEXT_CHARS]
    return NewJob(id=job_id, queue="q", name="work", payload=f'{{"n":1,"text":"{text}"}}'.encode(), digest=b"same")


async def fill(backend: BackendAdapter, count: int, span: machine.Span) -> Facts:
    client = new_token()
    span.begin()
    for turn in range(count // CALL):
        jobs = [plain_job(new_id()) for _ in range(CALL)]
        await backend.enqueue(Op(client, 0, turn + 1), jobs)
    span.end()
    return span.rate(count)


class Watch:
    """How long each part of the move took, and how much memory the process had."""

    def __init__(self) -> None:
        self.began: dict[str, float] = {}
        self.rss_mb: dict[str, float] = {}

    def tell(self, step: Progress) -> None:
        self.began.setdefault(step.doing, time.perf_counter())
        tenth = step.done * 10 // max(1, step.total)
        if step.doing == "copying" and tenth in (1, 9):
            self.rss_mb[f"at {tenth} tenths"] = machine.rss_mb()


async def opened(url: str, work: Callable[[BackendAdapter], Awaitable[Facts]]) -> Facts:
    backend: BackendAdapter = PsyQueue.from_url(url).get_exposed("backend")
    await backend.connect()
    try:
        return await work(backend)
    finally:
        await backend.disconnect()


async def move(source: str, target: str, jobs: int, span: machine.Span) -> Facts:
    old, new = (PsyQueue.from_url(url).get_exposed("backend") for url in (source, target))
    await old.connect()
    await new.connect()
    watch = Watch()
    try:
        span.begin()
        verified = await Mover(House(old, "source"), House(new, "target"), tell=watch.tell).run()
        span.end()
    finally:
        await old.disconnect()
        await new.disconnect()
    whole = span.rate(jobs)
    copied_s = watch.began["verifying"] - watch.began["copying"]
    return {
        "ok": verified.ok,
        "moved": sum(count for count, _ in verified.target.values()),
        "copy_jobs_per_s": round(jobs / copied_s),
        "whole_jobs_per_s": whole["value"],
        "whole_s": whole["seconds"],
        "cpu_us_per_job": cpu_us(whole),
        "rss_mb": watch.rss_mb,
    }


def cpu_us(rate: Facts) -> Facts:
    return {"client": rate["cpu_us_per_job"], "server": rate.get("server_us_per_job", 0)}


def address(store: str, url: str, folder: Path, name: str) -> str:
    if store == "sqlite":
        return f"sqlite:{folder}/{name}.db"
    return f"{url}?key_prefix={name}:" if store == "redis" else f"{url}?schema={name}"


def measure(store: str, jobs: int, folder: Path) -> Facts:
    find = STORES[store].find
    found_server = find() if find is not None else None
    spec = Spec(store=store, case="move", kind="bulk", peer="psyqueue", n=jobs, folder=str(folder))
    server = servers.start(replace(spec, server=found_server.path)) if found_server is not None else None
    url, pid = (server.url, server.pid) if server is not None else ("", 0)
    try:
        source = f"sqlite:{folder}/source.db"
        asyncio.run(opened(f"{source}?durability=normal", lambda backend: fill(backend, jobs, machine.Span())))
        yardstick = address(store, url, folder, "yardstick")
        bulk = asyncio.run(
            opened(yardstick, lambda backend: fill(backend, min(jobs, YARDSTICK_MAX), machine.Span(pid)))
        )
        found = asyncio.run(move(source, address(store, url, folder, "target"), jobs, machine.Span(pid)))
    finally:
        if server is not None:
            server.stop()
    ratios = {f"{name}_to_bulk": round(found[f"{name}_jobs_per_s"] / bulk["value"], 2) for name in ("copy", "whole")}
    bulk_facts = {"bulk_jobs_per_s": bulk["value"], "bulk_cpu_us_per_job": cpu_us(bulk)}
    return {"to": store, "jobs": jobs, **bulk_facts, **ratios, **found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", choices=("sqlite", "redis", "postgres"), default="redis")
    parser.add_argument("--jobs", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with machine.Window() as window:
            found = measure(options.to, options.jobs, Path(folder))
        found |= {"machine": machine.facts(Path(folder)), "meanwhile": window.facts()}
    print(json.dumps(found, indent=2))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
