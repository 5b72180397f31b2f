"""What the settings of a queue mean now, and whether there is such a queue."""

from __future__ import annotations

import difflib

from psyqueue import PsyQueue
from psyqueue.backend import BackendAdapter, QueueInfo
from psyqueue.backend.compose import all_queues, all_sessions
from psyqueue.cli import output
from psyqueue.kernel.options import read_name


async def tell_if_unknown(queue: PsyQueue, name: str) -> None:
    """A note on standard error where a queue of this name has neither jobs nor workers: it may be written wrongly.

    Its settings may be given before its first job all the same. Raises InvalidOption for what can be no name.
    """
    read_name("queue", name)
    backend: BackendAdapter = queue.get_exposed("backend")
    # A name sorts before everything that it is the beginning of.
    first, _ = await backend.queues(name, None, 1)
    served = {each for info in await all_sessions(backend) for each in info.session.queues}
    if name in served or any(info.queue == name and _has_jobs(info) for info in first):
        return
    known = sorted(served | {info.queue for info in await all_queues(backend) if _has_jobs(info)})
    close = difflib.get_close_matches(name, known, n=1)
    meant = f": did you mean {close[0]!r}?" if close else ""
    output.say(f"psyqueue: no job is in queue {name!r}, and no worker takes it{meant}")


def _has_jobs(info: QueueInfo) -> bool:
    """Settings alone make no queue: a name that was written wrongly before has some."""
    return any(info.counts.values())
