"""What producers and workers saw of a move, by the history: the longest call, the longest time without a start."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from psyqueue.testing.history import Event


class Pauses(Struct, frozen=True):
    """In milliseconds, and how often producers were refused, by the code of the error.

    `start_ms`: between two starts of jobs, where the job of the second was there to be started before the first.
    """

    enqueue_ms: int
    start_ms: int
    refused: dict[str, int]


def pauses_in(events: Iterable[Event]) -> Pauses:
    asked: dict[tuple[str, int], int] = {}
    due: dict[str, int] = {}
    refused: dict[str, int] = {}
    longest = gap = started_ns = 0
    for event in events:
        match event:
            case Event(kind="invoke", verb="enqueue_bulk"):
                asked[event.process, event.call] = event.at_ns
            case Event(kind="ok" | "fail") if (event.process, event.call) in asked:
                longest = max(longest, event.at_ns - asked[event.process, event.call])
                if event.problem:
                    refused[event.problem] = refused.get(event.problem, 0) + 1
            case Event(kind="invoke", verb="enqueue"):
                due |= {job.job_id: event.at_ns for job in event.jobs if job.is_due and not job.gate}
            case Event(kind="start") if event.run is not None:
                if event.run.fence == 1 and event.run.job_id in due:
                    gap = max(gap, event.at_ns - max(started_ns, due[event.run.job_id]))
                started_ns = event.at_ns
    return Pauses(longest // 1_000_000, gap // 1_000_000, refused)
