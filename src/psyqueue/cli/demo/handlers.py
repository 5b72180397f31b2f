"""The queue that the demo's workers run: `psyqueue worker psyqueue.cli.demo.handlers:q`."""

from __future__ import annotations

import os
import threading
import warnings
from typing import Any

import msgspec

from psyqueue import Context, PsyQueue
from psyqueue.cli.demo.journal import Entry, append
from psyqueue.cli.demo.measure import measure_file
from psyqueue.clock import SystemClock

QUEUE = "files"
JOB = "measure"

clock: SystemClock = SystemClock()


def make_queue() -> PsyQueue:
    """A queue that knows the demo's one handler, without a store."""
    queue = PsyQueue(name="psyqueue-demo")
    queue.handle(JOB, measure, queue=QUEUE)
    return queue


def measure(ctx: Context, path: str, journal: str, is_python: bool, linger_ms: int) -> dict[str, Any]:
    """Measure one file. The result carries the fence of the run that made it.

    `linger_ms`: in a small folder each run is stretched to this, so that there is something to see and to kill.
    """
    began_ms = clock.mono_ms()
    run = Entry(
        what="begin", job_id=ctx.job.id, fence=ctx.fence, attempt=ctx.attempt, pid=os.getpid(), at_ms=clock.now_ms()
    )
    append(journal, run)
    result = measure_file(path, is_python=is_python)
    run_ms = clock.mono_ms() - began_ms
    if linger_ms > run_ms:
        threading.Event().wait((linger_ms - run_ms) / 1000)
        run_ms = clock.mono_ms() - began_ms
    append(journal, msgspec.structs.replace(run, what="end", at_ms=clock.now_ms(), run_ms=run_ms))
    return {**msgspec.structs.asdict(result), "fence": ctx.fence}


# Old code in the library uses escapes that newer compilers warn about; hundreds of warnings are no news.
warnings.simplefilter("ignore", SyntaxWarning)
warnings.simplefilter("ignore", DeprecationWarning)

q: PsyQueue = make_queue()
