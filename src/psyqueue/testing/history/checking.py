"""Which promises a history broke."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from msgspec import Struct

from psyqueue.job import STATUSES
from psyqueue.testing.history.calls import Call, Delivered, Ended, History
from psyqueue.testing.history.events import read_events

LATER = ("retry", "release", "snooze")
"""Outcomes after which a job may run again."""


LINGERS_NS = 1_500_000_000
"""For so long a fetch that was taken back tells on the order: the server has to notice that its client has gone, and a
worker may look for a second where its last look ended (backends/_postgres/includes/marks.sql)."""


class Problem(Struct, frozen=True):
    """A broken promise: the rule (C1, …), the job, and what happened."""

    rule: str
    job_id: str
    words: str

    def __str__(self) -> str:
        return f"{self.rule} {self.job_id}: {self.words}"


class Report(Struct, frozen=True, kw_only=True):
    """What a run was, and what was wrong with it.

    `repeats`: starts of a job after an earlier start, by cause: "retry" (asked for), "justified" (its worker was killed
    or stopped, or its lease was taken), "unjustified" (also a problem). `given`: deliveries by store.
    """

    problems: tuple[Problem, ...]
    enqueued: int
    started: int
    completed: int
    unknown: int
    faults: int
    repeats: dict[str, int]
    given: dict[str, int]

    @property
    def is_clean(self) -> bool:
        """No promise was broken."""
        return not self.problems

    def __str__(self) -> str:
        counts = (
            f"{self.enqueued} enqueued, {self.started} started, {self.completed} completed, {self.faults} faults, "
            f"{self.unknown} unknown calls, repeats {self.repeats}"
        )
        shown = [str(problem) for problem in self.problems[:50]]
        rest = len(self.problems) - len(shown)
        return "\n".join([counts, *shown, *([f"… and {rest} more"] if rest else [])])


def check_history(files: Iterable[Path], final_jobs: Mapping[str, str], *, stores: Sequence[str] = ()) -> Report:
    """What the files of one run say, against the status that each job has in the end (after healing and draining).

    `final_jobs` holds every job of the store. Rules: C1 nothing acknowledged is lost, C2 nothing runs that was not put
    in, C3 nothing runs after its ack was acknowledged, C4 one accepted ack for each job and generation, and a repeat
    only where its worker was killed or stopped or its lease was taken, C6 fences grow, C7 order, C9 idempotency.

    `stores`: the names of those that took over from each other while jobs were moved, in this order. All rules hold
    over the change, and `final_jobs` are those of the last one, with what had ended in those before it. C15 one store
    at a time: when one is known to have given out a job, every call to an earlier one that begins later finds it
    closed. It gives out no job, shows none that could be started, takes in none and accepts no outcome. And no job is
    new in two of them. What was startable in both is noticed if somebody looked (`RecordedBackend.look`) or was given
    it; calls that overlap in time are not judged. Raises ValueError for a history of other stores.
    """
    history = History(read_events(files))
    if stores and (others := {call.invoke.store for call in history.calls.values()} - {*stores, ""}):
        raise ValueError(f"the history is also of {', '.join(sorted(others))}: name all stores of the move")
    repeats: Counter[str] = Counter()
    problems = [
        *_lost(history, final_jobs),
        *_invented(history),
        *_after_ack(history),
        *_acked_twice(history, final_jobs),
        *_repeated(history, repeats),
        *_fences(history),
        *_out_of_order(history),
        *_keys(history),
        *_beside_another_store(history, stores),
        *_new_in_two(history),
    ]
    return Report(
        problems=tuple(problems),
        enqueued=len(history.created),
        started=sum(map(len, history.starts.values())),
        completed=sum(status == "completed" for status in final_jobs.values()),
        unknown=sum(
            not call.is_ok and (call.done is None or call.done.kind == "unknown") for call in history.calls.values()
        ),
        faults=sum(map(len, history.faults.values())),
        repeats=dict(repeats),
        given=dict(Counter(each.call.invoke.store for runs in history.delivered.values() for each in runs)),
    )


def _lost(history: History, final_jobs: Mapping[str, str]) -> Iterator[Problem]:
    for job_id in sorted(history.created):
        if job_id not in final_jobs:
            yield Problem("C1", job_id, "was acknowledged, and is gone")
    for job_id, status in final_jobs.items():
        if status not in STATUSES or status == "active":
            yield Problem("C1", job_id, f"is {status!r} after everything was healed: nobody will ever end it")
        attempts = history.enqueued.get(job_id, [])
        if attempts and all(call.done is not None and call.done.kind == "fail" for call, _ in attempts):
            yield Problem("C1", job_id, "was refused each time, and is there all the same")


def _invented(history: History) -> Iterator[Problem]:
    ran = {job_id for job_id, _ in (*history.starts, *history.delivered)}
    for job_id in sorted(ran - history.enqueued.keys()):
        yield Problem("C2", job_id, "ran, and was never enqueued")
    for (job_id, generation), starts in history.starts.items():
        known = {each.run.fence for each in history.delivered[job_id, generation]}
        for event in starts:
            if event.run is not None and event.run.fence not in known:
                yield Problem("C2", job_id, f"started with fence {event.run.fence}, which nobody was given")


def _accepted_acks(history: History, job: tuple[str, int]) -> list[Ended]:
    return [each for each in history.ended[job] if each.ending.kind == "ack" and each.verdict == "ok"]


def _after_ack(history: History) -> Iterator[Problem]:
    for job, deliveries in history.delivered.items():
        acks = _accepted_acks(history, job)
        acked_ns = min((each.call.ok_ns for each in acks), default=float("inf"))
        for each in deliveries:
            if each.call.invoke.at_ns > acked_ns:
                words = f"was delivered (fence {each.run.fence}) by a call that began after its ack had been accepted"
                yield Problem("C3", job[0], words)


def _acked_twice(history: History, final_jobs: Mapping[str, str]) -> Iterator[Problem]:
    acked: set[str] = set()
    for job in list(history.ended):
        accepted = _accepted_acks(history, job)
        acked |= {
            job[0] for each in history.ended[job] if each.ending.kind == "ack" and each.verdict in ("ok", "already", "")
        }
        if len(accepted) > 1:
            fences = sorted(each.ending.run.fence for each in accepted)
            yield Problem("C4", job[0], f"{len(accepted)} acks were accepted, of fences {fences}")
        if accepted and final_jobs.get(job[0]) not in ("completed", None) and _is_last(history, job):
            yield Problem("C4", job[0], f"its ack was accepted, and it is {final_jobs[job[0]]}")
    started = {job_id for job_id, _ in history.delivered}
    for job_id, status in final_jobs.items():
        if status == "completed" and job_id in started and job_id not in acked:
            yield Problem("C4", job_id, "is completed, and nobody acked it")


def _is_last(history: History, job: tuple[str, int]) -> bool:
    """No later generation was delivered: a replay may have changed what became of it."""
    return not any(job_id == job[0] and generation > job[1] for job_id, generation in history.delivered)


def _repeated(history: History, repeats: Counter[str]) -> Iterator[Problem]:
    """The next delivery of a job may start only if the one before it was given back, or lost with its worker."""
    for job, starts in history.starts.items():
        later = {
            each.ending.run.fence for each in history.ended[job] if each.ending.kind in LATER and each.verdict != "lost"
        }
        asked_ns = {each.run.fence: each.call.asked_ns for each in reversed(history.delivered[job])}
        runs = sorted((event.run.fence, event.at_ns, event.process) for event in starts if event.run is not None)
        for (fence, at_ns, process), (next_fence, next_ns, _) in pairwise(runs):
            if fence in later and fence != next_fence:
                repeats["retry"] += 1
            elif fence != next_fence and _was_lost(history, job[0], process, asked_ns.get(fence, at_ns), next_ns):
                repeats["justified"] += 1
            else:
                repeats["unjustified"] += 1
                words = f"fence {next_fence} started beside fence {fence}, and {process!r} was well"
                yield Problem("C4", job[0], words)


def _was_lost(history: History, job_id: str, process: str, from_ns: int, until_ns: int) -> bool:
    """In that time the worker was killed or stopped, or a reaper took the job from it."""
    faults = history.faults[process]
    if bisect_right(faults, until_ns) > bisect_left(faults, from_ns):
        return True
    reaps = [*history.reaps[job_id], *history.unknown_reaps]
    return any(call.ok_ns >= from_ns and call.invoke.at_ns <= until_ns for call in reaps)


def _fences(history: History) -> Iterator[Problem]:
    by_job: defaultdict[str, list[Delivered]] = defaultdict(list)
    for (job_id, _), deliveries in history.delivered.items():
        by_job[job_id] += deliveries
    for job_id, deliveries in by_job.items():
        given: dict[int, Delivered] = {}
        for each in sorted(deliveries, key=lambda each: each.call.ok_ns):
            twin = given.get(each.run.fence)
            if twin is not None and twin.call.invoke.process != each.call.invoke.process:
                yield Problem("C6", job_id, f"fence {each.run.fence} was given to two workers")
            given[each.run.fence] = each
        # A call that began after another one had returned saw what it did.
        highest, highest_ok_ns = 0, float("-inf")
        for each in sorted(deliveries, key=lambda each: each.call.invoke.at_ns):
            if each.call.invoke.at_ns > highest_ok_ns and each.run.fence < highest:
                yield Problem("C6", job_id, f"fence {each.run.fence} was given after fence {highest}")
            if each.run.fence > highest:
                highest, highest_ok_ns = each.run.fence, each.call.ok_ns


class _Passage(Struct, frozen=True):
    """A job that was put in once and delivered once: when each of it began and was known."""

    job_id: str
    in_invoke_ns: int
    in_ok_ns: float
    out_invoke_ns: int
    out_ok_ns: float


def _out_of_order(history: History) -> Iterator[Problem]:
    lines: defaultdict[tuple[str, str, int, str], list[_Passage]] = defaultdict(list)
    for job_id, calls in history.enqueued.items():
        attempts = [each for each in calls if each[0].done is None or each[0].done.kind != "fail"]
        deliveries = history.delivered.get((job_id, 0), [])
        if len(attempts) != 1 or len(deliveries) != 1 or deliveries[0].run.fence != 1 or not attempts[0][0].is_ok:
            continue  # retried, released, lost, or unsure: no promise
        (call, job), out = attempts[0], deliveries[0].call
        if job.is_due and call.invoke.verb == "enqueue":
            passage = _Passage(job_id, call.invoke.at_ns, call.ok_ns, out.asked_ns, out.ok_ns)
            lines[job.queue, job.lane, job.priority, job.gate].append(passage)
    held = _held(history)
    for line in lines.values():
        yield from _overtaken(line, held)


def _held(history: History) -> list[tuple[int, float]]:
    """When others may have passed over jobs because of a fetch that then got none of them.

    PostgreSQL passes over what another transaction has locked. A server that dies or cuts a connection takes the fetch
    of it back, and its jobs are there again, behind those that went out meanwhile.
    """
    spans: list[tuple[int, float]] = []
    for call in history.calls.values():
        if call.invoke.verb == "settle" and not call.is_ok:
            # Of a killed process its death is the last fault; it may have called after that was written down.
            ends = [call.done.at_ns] if call.done is not None else history.faults[call.invoke.process][-1:]
            until_ns = max(call.invoke.at_ns, *ends) + LINGERS_NS if ends else float("inf")
            spans.append((call.invoke.at_ns, until_ns))
    return spans


def _overtaken(line: list[_Passage], held: list[tuple[int, float]]) -> Iterator[Problem]:
    """A before B at the entrance, B out before A was asked for: of all A, the one that came out last tells it."""
    by_ok = sorted(line, key=lambda passage: passage.in_ok_ns)
    last: list[_Passage] = []
    for passage in by_ok:
        last.append(max(last[-1], passage, key=lambda each: each.out_invoke_ns) if last else passage)
    oks = [passage.in_ok_ns for passage in by_ok]
    for passage in line:
        earlier = bisect_left(oks, passage.in_invoke_ns)
        if not earlier or last[earlier - 1].out_invoke_ns <= passage.out_ok_ns:
            continue
        if not any(since <= passage.out_ok_ns and passage.out_invoke_ns <= until for since, until in held):
            words = f"came out before {last[earlier - 1].job_id}, which had been put in before it"
            yield Problem("C7", passage.job_id, words)


def _keys(history: History) -> Iterator[Problem]:
    """Within one run no window ends: a key stands for one job."""
    ids: defaultdict[str, set[str]] = defaultdict(set)
    created: Counter[str] = Counter()
    for call in history.calls.values():
        if call.invoke.verb != "enqueue" or not call.is_ok or call.done is None:
            continue
        for job, (job_id, is_new) in zip(call.invoke.jobs, call.done.replies, strict=False):
            if job.key:
                ids[job.key].add(job_id)
                created[job.key] += is_new
    for key in ids:
        if len(ids[key]) > 1:
            yield Problem("C9", ", ".join(sorted(ids[key])), f"all stand for idempotency key {key!r}")
        if created[key] > 1:
            yield Problem("C9", ", ".join(sorted(ids[key])), f"idempotency key {key!r} was new {created[key]} times")


def _beside_another_store(history: History, stores: Sequence[str]) -> Iterator[Problem]:
    calls = [call for call in history.calls.values() if call.is_ok]
    over_ns = float("inf")
    for number in range(len(stores) - 1, 0, -1):
        given = (call.ok_ns for call in calls if call.invoke.store == stores[number] and _gives(call))
        over_ns = min(over_ns, *given, float("inf"))
        late = (call for call in calls if call.invoke.store == stores[number - 1] and call.asked_ns > over_ns)
        for job_id, words in (done for call in late for done in _done_by(history, call)):
            yield Problem("C15", job_id, f"{stores[number - 1]} {words} when {stores[number]} had given out jobs")


def _gives(call: Call) -> bool:
    return call.done is not None and bool(call.done.deliveries)


def _done_by(history: History, call: Call) -> Iterator[tuple[str, str]]:
    """What an open store does. An enqueue may repeat one of before, and is told once more what that did."""
    done = call.done
    assert done is not None
    for run in done.deliveries:
        yield run.job_id, f"gave it out (fence {run.fence})"
    for job_id in done.startable:
        yield job_id, "could have started it"
    for ending, verdict in zip(call.invoke.endings, done.verdicts, strict=True):
        if verdict == "ok":
            yield ending.run.job_id, f"accepted its {ending.kind}"
    for job_id, is_new in done.replies:
        first = next((each for each, _ in history.enqueued[job_id] if each.invoke.store == call.invoke.store), call)
        if is_new and first is call:
            yield job_id, "took it in"


def _new_in_two(history: History) -> Iterator[Problem]:
    stores: defaultdict[str, set[str]] = defaultdict(set)
    for call in history.calls.values():
        if call.done is not None and call.is_ok and call.invoke.store:
            for job_id in (job_id for job_id, is_new in call.done.replies if is_new):
                stores[job_id].add(call.invoke.store)
    for job_id, names in stores.items():
        if len(names) > 1:
            yield Problem("C15", job_id, f"was new in {' and in '.join(sorted(names))}")
