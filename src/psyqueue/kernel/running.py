"""From the options of `start_worker` to a running worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.clock import Duration, to_ms
from psyqueue.errors import AlreadyStopped, ConfigError, InvalidOption, LifecycleError
from psyqueue.kernel.options import read_int, read_name
from psyqueue.kernel.worker import Worker, WorkerOptions

if TYPE_CHECKING:
    from psyqueue.kernel.core import Core

CONCURRENCY_MAX = 10_000
"""Slots of one worker; more are better spread over processes."""
LEASE_MS_MIN = 1_000
LEASE_MS_MAX = 3_600_000
"""Below, a pause of the machine loses jobs; above, a dead worker's jobs wait for an hour."""


def start_worker(
    core: Core, queues: Sequence[str], *, concurrency: Any, prefetch: Any, lease: Duration, name: str | None
) -> Worker:
    """Check the options and start. Raises InvalidOption, ConfigError, NotStarted, AlreadyStopped."""
    core.require_running()
    if core.state != "running":
        raise AlreadyStopped(f"queue {core.name!r} is stopping; no worker is started any more")
    if core.rehearsal is not None and not core.rehearsal.takes_workers:
        raise LifecycleError(
            f"queue {core.name!r} is being tested in virtual time, which stands still while a worker waits. Run "
            'its jobs with `await t.drain()`, or test it in real time: q.testing(clock="real")'
        )
    named: Sequence[object] = queues
    for queue in named:
        if not isinstance(queue, str):
            problem = f"is {type(queue).__name__}, not text"
            raise InvalidOption("queues", queue, problem, 'Give their names one by one: start_worker("mail", "images")')
    chosen = tuple(dict.fromkeys(read_name("queues", queue) for queue in queues))
    if not chosen and not core.handlers.queues():
        raise ConfigError("a worker without queues: name some, or register handlers with q.handle(...) first")
    lease_ms = to_ms("lease", lease, minimum_ms=LEASE_MS_MIN)
    if lease_ms > LEASE_MS_MAX:
        raise InvalidOption("lease", lease, "is longer than an hour", "Jobs of a dead worker wait for that long")
    core.workers[:] = [worker for worker in core.workers if worker.is_running]
    core.workers_made += 1
    number = core.workers_made
    options = WorkerOptions(
        queues=chosen,
        name=f"{socket.gethostname()[:150]}-{os.getpid()}-{number}" if name is None else read_name("name", name),
        concurrency=read_int("concurrency", concurrency, 1, CONCURRENCY_MAX),
        prefetch=None if prefetch == "auto" else _prefetch(prefetch),
        lease_ms=lease_ms,
    )
    worker = Worker(core, options)
    core.workers.append(worker)
    worker.start()
    return worker


def _prefetch(value: Any) -> int:
    if isinstance(value, str):
        raise InvalidOption("prefetch", value, 'is neither "auto" nor a number of jobs')
    return read_int("prefetch", value, 0, ITEMS_MAX)
