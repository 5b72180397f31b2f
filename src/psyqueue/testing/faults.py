"""What the kit itself raises."""

from __future__ import annotations

from psyqueue.errors import PsyQueueError


class TooManyRuns(PsyQueueError):
    """`drain` or `advance` gave up: jobs kept coming. `name` is the one that ran most often, `runs` how often."""

    def __init__(self, limit: int, name: str, queue: str, runs: int, job_id: str, left: int) -> None:
        super().__init__(
            "TOO_MANY_RUNS",
            f"{limit} runs, and {left} more are pending: {name!r} on {queue!r} keeps coming back, it ran {runs} times, "
            f"the last was job {job_id}. Does it enqueue or snooze itself without a delay? More runs: limit=",
            {"limit": limit, "name": name, "queue": queue, "runs": runs, "job_id": job_id, "left": left},
        )
        self.name = name
        self.runs = runs
        self.job_id = job_id


class StillRunning(PsyQueueError):
    """A run took more real time than the test has patience for; it was stopped, and its job handed back."""

    def __init__(self, name: str, queue: str, job_id: str, patience_ms: int) -> None:
        super().__init__(
            "STILL_RUNNING",
            f"{name!r} on {queue!r} (job {job_id}) has been running for {patience_ms} ms of real time. Only what the "
            "handler itself awaits with asyncio.sleep is skipped; sockets, threads, processes and events take the time "
            "that they take. Give the handler a double of what it waits for, or the test more patience=",
            {"name": name, "queue": queue, "job_id": job_id, "patience_ms": patience_ms},
        )
        self.name = name
        self.job_id = job_id


class NotIdle(PsyQueueError):
    """Workers had not finished in time; the history is in the message."""

    def __init__(self, timeout_ms: int, unfinished: int, history: str) -> None:
        super().__init__(
            "NOT_IDLE",
            f"after {timeout_ms} ms {unfinished} jobs are pending or running still. Is a worker started, on their "
            f"queues? What happened:\n{history}",
            {"timeout_ms": timeout_ms, "unfinished": unfinished},
        )
