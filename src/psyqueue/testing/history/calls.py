"""The events of a run, joined to calls and sorted by what they are about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from msgspec import Struct

from psyqueue.testing.history.events import Ending, Enqueuing, Event, Run


class Call(Struct):
    """An invoke and what came of it; `done` is None if its process died before it knew.

    `repeats`: the settle that this one is the repeat of: its answer was never heard, or whoever heard it asked again
    because another store of the same call had not answered. What it brings may have been done back then.
    """

    invoke: Event
    done: Event | None = None
    repeats: Call | None = None

    @property
    def asked_ns(self) -> int:
        """When it was sent for the first time."""
        return self.invoke.at_ns if self.repeats is None else self.repeats.asked_ns

    @property
    def is_ok(self) -> bool:
        return self.done is not None and self.done.kind == "ok"

    @property
    def is_told_again(self) -> bool:
        """It was answered before, and this is the same answer: the store remembers calls by their identity."""
        before = self.repeats
        while before is not None and not before.is_ok:
            before = before.repeats
        return before is not None and before.answer == self.answer

    @property
    def answer(self) -> tuple[object, ...]:
        """What whoever called was told; () if nothing."""
        return (self.done.verdicts, self.done.replies, self.done.deliveries) if self.done is not None else ()

    @property
    def ok_ns(self) -> float:
        """When it was known to have happened; never, if it was not."""
        return self.done.at_ns if self.done is not None and self.done.kind == "ok" else float("inf")


class Delivered(Struct, frozen=True):
    call: Call
    run: Run


class Ended(Struct, frozen=True):
    """An outcome and its verdict; "" if nobody knows."""

    call: Call
    ending: Ending
    verdict: str


class History:
    """The events of a run, by what they are about."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.events: list[Event] = list(events)
        self.calls: dict[tuple[str, int], Call] = {}
        self.starts: defaultdict[tuple[str, int], list[Event]] = defaultdict(list)
        self.faults: defaultdict[str, list[int]] = defaultdict(list)
        self.reaps: defaultdict[str, list[Call]] = defaultdict(list)
        for event in self.events:
            self._sort_in(event)
        self._join_repeats()
        self.unknown_reaps: list[Call] = []
        self.enqueued: defaultdict[str, list[tuple[Call, Enqueuing]]] = defaultdict(list)
        self.delivered: defaultdict[tuple[str, int], list[Delivered]] = defaultdict(list)
        self.ended: defaultdict[tuple[str, int], list[Ended]] = defaultdict(list)
        for call in self.calls.values():
            self._take_apart(call)

    def _sort_in(self, event: Event) -> None:
        match event.kind:
            case "invoke":
                self.calls[event.process, event.call] = Call(event)
            case "ok" | "fail" | "unknown":
                self.calls[event.process, event.call].done = event
            case "start" if event.run is not None:
                self.starts[event.run.job_id, event.run.generation].append(event)
            case "fault":
                self.faults[event.victim].append(event.at_ns)

    def _join_repeats(self) -> None:
        """A process sends its outcomes again until it knows what became of them."""
        last: dict[tuple[str, str], Call] = {}
        by_op: dict[tuple[str, str, str], Call] = {}
        for call in self.calls.values():
            if call.invoke.verb == "settle":
                line = (call.invoke.process, call.invoke.store)
                before = by_op.get((*line, call.invoke.op)) if call.invoke.op else None
                call.repeats = before or _unanswered(last.get(line), call)
                last[line] = by_op[*line, call.invoke.op] = call

    def _take_apart(self, call: Call) -> None:
        if call.is_told_again:
            return
        for job in call.invoke.jobs:
            self.enqueued[job.job_id].append((call, job))
        done = call.done if call.is_ok else None
        for number, ending in enumerate(call.invoke.endings):
            if call.done is None or call.done.kind != "fail":
                verdict = done.verdicts[number] if done is not None else ""
                self.ended[ending.run.job_id, ending.run.generation].append(Ended(call, ending, verdict))
        for run in done.deliveries if done is not None else ():
            self.delivered[run.job_id, run.generation].append(Delivered(call, run))
        for job_id in done.reaped if done is not None else ():
            self.reaps[job_id].append(call)
        if call.invoke.verb == "reap" and done is None:
            self.unknown_reaps.append(call)

    @property
    def created(self) -> set[str]:
        """Ids that the store said it took in."""
        ok = (call.done for call in self.calls.values() if call.is_ok)
        return {job_id for done in ok if done is not None for job_id, is_new in done.replies if is_new}


def _unanswered(before: Call | None, call: Call) -> Call | None:
    """The call before, if it brought the same outcomes and had no answer."""
    if before is None or before.is_ok or before.invoke.endings != call.invoke.endings:
        return None
    return before
