"""The checker sees what is wrong, and only that: each rule has histories that keep it and that break it.

Method: histories are written by hand, an event a line, with times that count 1, 2, 3, … in the order of the lines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from psyqueue.testing.history import Event, check_history
from psyqueue.testing.history.checking import LINGERS_NS
from psyqueue.testing.history.events import Ending, Enqueuing, Run, read_events


class Tale:
    """Builds a history; calls of the same process are told by their number."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.calls = 0
        self.passed_ns = 0
        """To be added to all times from now on."""
        self.store = ""
        """Where calls go to."""

    def tell(self, process: str, kind: Any, **facts: Any) -> int:
        if kind == "invoke":
            self.calls += 1
            facts = {"store": self.store, **facts, "call": self.calls}
        self.events.append(Event(kind=kind, process=process, at_ns=len(self.events) + 1 + self.passed_ns, **facts))
        return self.calls

    def begin_enqueue(self, *ids: str, process: str = "p", key: str = "") -> int:
        return self.tell(process, "invoke", verb="enqueue", jobs=tuple(Enqueuing(each, key=key) for each in ids))

    def enqueue(self, *ids: str, process: str = "p", is_new: bool = True, got: str = "", key: str = "") -> None:
        call = self.begin_enqueue(*ids, process=process, key=key)
        self.tell(process, "ok", call=call, replies=tuple((got or each, is_new) for each in ids))

    def deliver(self, *runs: Run, process: str = "w") -> None:
        call = self.tell(process, "invoke", verb="settle")
        self.tell(process, "ok", call=call, deliveries=runs)

    def end(self, run: Run, kind: str = "ack", verdict: str = "ok", process: str = "w", op: str = "") -> None:
        call = self.tell(process, "invoke", verb="settle", op=op, endings=(Ending(run, kind),))
        self.tell(process, "ok", call=call, verdicts=(verdict,))

    def run(self, run: Run, kind: str = "ack", process: str = "w") -> None:
        """Delivered, started, ended."""
        self.deliver(run, process=process)
        self.tell(process, "start", run=run)
        self.end(run, kind, process=process)

    def write(self, folder: Path) -> list[Path]:
        files = []
        for process in {event.process for event in self.events}:
            lines = [msgspec.json.encode(event) + b"\n" for event in self.events if event.process == process]
            files.append(folder / f"{process}.jsonl")
            files[-1].write_bytes(b"".join(lines))
        return files


@pytest.fixture
def tale():
    return Tale()


def rules(tale: Tale, folder: Path, *, stores: tuple[str, ...] = (), **final_jobs: str) -> set[str]:
    return {problem.rule for problem in check_history(tale.write(folder), final_jobs, stores=stores).problems}


A1, A2, A3 = (Run("a", 0, fence) for fence in (1, 2, 3))
B1 = Run("b", 0, 1)


def test_a_quiet_run_is_clean(tale, tmp_path):
    tale.enqueue("a", "b")
    tale.run(A1)
    tale.run(B1)
    report = check_history(tale.write(tmp_path), {"a": "completed", "b": "completed"})
    assert report.is_clean, report
    assert (report.enqueued, report.started, report.completed, report.repeats) == (2, 2, 2, {})


# ── C1 ──
def test_c1_an_acknowledged_job_that_is_gone(tale, tmp_path):
    tale.enqueue("a", "b")
    tale.run(A1)
    assert rules(tale, tmp_path, a="completed") == {"C1"}


def test_c1_a_job_that_nobody_will_end(tale, tmp_path):
    tale.enqueue("a")
    tale.deliver(A1)
    assert rules(tale, tmp_path, a="active") == {"C1"}


def test_c1_a_job_that_still_waits_is_not_lost(tale, tmp_path):
    tale.enqueue("a", "b", "c")
    assert rules(tale, tmp_path, a="pending", b="scheduled", c="waiting") == set()


def test_c1_an_enqueue_that_is_unknown_may_be_either(tale, tmp_path):
    tale.tell("p", "unknown", call=tale.begin_enqueue("a"))
    tale.begin_enqueue("b")
    assert rules(tale, tmp_path, a="pending") == set()
    assert rules(tale, tmp_path) == set()


def test_c1_an_enqueue_that_was_refused_leaves_nothing(tale, tmp_path):
    tale.tell("p", "fail", call=tale.begin_enqueue("a"), problem="QUEUE_FULL")
    assert rules(tale, tmp_path) == set()
    assert rules(tale, tmp_path, a="pending") == {"C1"}


def test_c1_a_refused_enqueue_may_be_repeated(tale, tmp_path):
    tale.tell("p", "fail", call=tale.begin_enqueue("a"), problem="QUEUE_FULL")
    tale.enqueue("a")
    assert rules(tale, tmp_path, a="pending") == set()


# ── C2 ──
def test_c2_a_job_that_nobody_put_in(tale, tmp_path):
    tale.run(A1)
    assert rules(tale, tmp_path, a="completed") == {"C2"}


def test_c2_a_start_without_a_delivery(tale, tmp_path):
    tale.enqueue("a")
    tale.tell("w", "start", run=A1)
    assert rules(tale, tmp_path, a="pending") == {"C2"}


def test_c2_a_follow_up_was_put_in_by_its_maker(tale, tmp_path):
    tale.enqueue("a")
    tale.deliver(A1)
    tale.tell("w", "start", run=A1)
    call = tale.tell("w", "invoke", verb="settle", endings=(Ending(A1, "ack"),), jobs=(Enqueuing("b"),))
    tale.tell("w", "ok", call=call, verdicts=("ok",), replies=(("b", True),))
    tale.run(B1)
    assert rules(tale, tmp_path, a="completed", b="completed") == set()


# ── C3 ──
def test_c3_a_delivery_after_an_accepted_ack(tale, tmp_path):
    tale.enqueue("a")
    tale.run(A1)
    tale.deliver(A2, process="v")
    assert "C3" in rules(tale, tmp_path, a="completed")


def test_c3_a_delivery_that_was_under_way_is_none_of_it(tale, tmp_path):
    tale.enqueue("a")
    call = tale.tell("v", "invoke", verb="settle")
    tale.run(A1)
    tale.tell("v", "ok", call=call, deliveries=())
    assert rules(tale, tmp_path, a="completed") == set()


def test_c3_a_replay_starts_anew(tale, tmp_path):
    tale.enqueue("a")
    tale.run(A1, kind="dead")
    tale.run(Run("a", 1, 2))
    assert rules(tale, tmp_path, a="completed") == set()


# ── C4 ──
def test_c4_two_accepted_acks(tale, tmp_path):
    tale.enqueue("a")
    tale.deliver(A1)
    tale.tell("w", "start", run=A1)
    tale.tell("n", "fault", victim="w", problem="stopped")
    tale.deliver(A2, process="v")
    tale.tell("v", "start", run=A2)
    tale.end(A2, process="v")
    tale.end(A1, process="w")
    assert "C4" in rules(tale, tmp_path, a="completed")


def test_c4_the_second_ack_is_told_that_it_is_lost(tale, tmp_path):
    tale.enqueue("a")
    tale.deliver(A1)
    tale.tell("w", "start", run=A1)
    tale.tell("n", "fault", victim="w", problem="stopped")
    tale.deliver(A2, process="v")
    tale.tell("v", "start", run=A2)
    tale.end(A2, process="v")
    tale.end(A1, verdict="lost", process="w")
    report = check_history(tale.write(tmp_path), {"a": "completed"})
    assert report.is_clean, report
    assert report.repeats == {"justified": 1}


def test_c4_a_repeated_call_that_is_answered_again_is_one(tale, tmp_path):
    tale.enqueue("a")
    tale.deliver(A1)
    tale.tell("w", "start", run=A1)
    tale.end(A1, op="c/0/7")
    tale.end(A1, op="c/0/7")
    tale.end(A1, op="c/0/7")
    assert rules(tale, tmp_path, a="completed") == set()


@pytest.mark.parametrize("op", ["c/0/8", "c/1/7", ""])
def test_c4_another_call_is_no_repeat_of_one_that_was_answered(tale, tmp_path, op):
    tale.enqueue("a")
    tale.deliver(A1)
    tale.tell("w", "start", run=A1)
    tale.end(A1, op="c/0/7")
    tale.end(A1, op=op)
    assert rules(tale, tmp_path, a="completed") == {"C4"}


def test_c4_an_accepted_ack_that_came_to_nothing(tale, tmp_path):
    tale.enqueue("a")
    tale.run(A1)
    assert rules(tale, tmp_path, a="pending") == {"C4"}


def test_c4_completed_without_an_ack(tale, tmp_path):
    tale.enqueue("a")
    tale.deliver(A1)
    assert rules(tale, tmp_path, a="completed") == {"C4"}


def test_c4_completed_by_an_ack_whose_reply_was_lost(tale, tmp_path):
    tale.enqueue("a")
    tale.deliver(A1)
    tale.tell("w", "invoke", verb="settle", endings=(Ending(A1, "ack"),))
    assert rules(tale, tmp_path, a="completed") == set()


def test_c4_a_repeat_without_a_reason(tale, tmp_path):
    tale.enqueue("a")
    tale.deliver(A1)
    tale.tell("w", "start", run=A1)
    tale.run(A2, process="v")
    report = check_history(tale.write(tmp_path), {"a": "completed"})
    assert {problem.rule for problem in report.problems} == {"C4"}
    assert report.repeats == {"unjustified": 1}


@pytest.mark.parametrize("reason", ["killed", "stopped", "reaped"])
def test_c4_a_repeat_with_a_reason_is_counted_apart(tale, tmp_path, reason):
    tale.enqueue("a")
    tale.deliver(A1)
    tale.tell("w", "start", run=A1)
    if reason == "reaped":
        call = tale.tell("v", "invoke", verb="reap")
        tale.tell("v", "ok", call=call, reaped=("a",))
    else:
        tale.tell("n", "fault", victim="w", problem=reason)
    tale.run(A2, process="v")
    report = check_history(tale.write(tmp_path), {"a": "completed"})
    assert report.is_clean, report
    assert report.repeats == {"justified": 1}


def test_c4_a_reason_that_came_before_is_none(tale, tmp_path):
    tale.enqueue("a")
    tale.tell("n", "fault", victim="w", problem="killed")
    tale.deliver(A1)
    tale.tell("w", "start", run=A1)
    tale.run(A2, process="v")
    assert rules(tale, tmp_path, a="completed") == {"C4"}


def test_c4_another_workers_death_is_no_reason(tale, tmp_path):
    tale.enqueue("a")
    tale.deliver(A1)
    tale.tell("w", "start", run=A1)
    tale.tell("n", "fault", victim="x", problem="killed")
    tale.run(A2, process="v")
    assert rules(tale, tmp_path, a="completed") == {"C4"}


@pytest.mark.parametrize("kind", ["retry", "release", "snooze"])
def test_c4_a_retry_is_no_repeat(tale, tmp_path, kind):
    tale.enqueue("a")
    tale.run(A1, kind=kind)
    tale.run(A2, process="v")
    report = check_history(tale.write(tmp_path), {"a": "completed"})
    assert report.is_clean, report
    assert report.repeats == {"retry": 1}


# ── C6 ──
def test_c6_a_fence_that_was_given_twice(tale, tmp_path):
    tale.enqueue("a")
    tale.deliver(A1, process="w")
    tale.deliver(A1, process="v")
    assert rules(tale, tmp_path, a="pending") == {"C6"}


def test_c6_a_fence_that_went_back(tale, tmp_path):
    tale.enqueue("a")
    tale.run(A2, kind="retry")
    tale.deliver(A1)
    assert rules(tale, tmp_path, a="pending") == {"C6"}


def test_c6_a_repeated_call_brings_the_same_fence(tale, tmp_path):
    tale.enqueue("a")
    tale.deliver(A1, process="w")
    tale.deliver(A1, process="w")
    assert rules(tale, tmp_path, a="pending") == set()


# ── C7 ──
def test_c7_a_job_that_overtakes(tale, tmp_path):
    tale.enqueue("a")
    tale.enqueue("b")
    tale.run(B1)
    tale.run(A1)
    assert rules(tale, tmp_path, a="completed", b="completed") == {"C7"}


def test_c7_jobs_put_in_at_once_may_come_in_any_order(tale, tmp_path):
    first, second = tale.begin_enqueue("a"), tale.begin_enqueue("b", process="o")
    tale.tell("p", "ok", call=first, replies=(("a", True),))
    tale.tell("o", "ok", call=second, replies=(("b", True),))
    tale.run(B1)
    tale.run(A1)
    assert rules(tale, tmp_path, a="completed", b="completed") == set()


def test_c7_a_retried_job_has_no_order(tale, tmp_path):
    tale.enqueue("a")
    tale.enqueue("b")
    tale.run(A1, kind="retry")
    tale.run(B1)
    tale.run(A2)
    assert rules(tale, tmp_path, a="completed", b="completed") == set()


def test_c7_queues_and_priorities_have_orders_of_their_own(tale, tmp_path):
    for number, job in enumerate([Enqueuing("a", "q"), Enqueuing("b", "r"), Enqueuing("c", "q", priority=1)]):
        call = tale.tell("p", "invoke", verb="enqueue", jobs=(job,))
        tale.tell("p", "ok", call=call, replies=((job.job_id, True),))
        assert number < 3
    for name in "cba":
        tale.run(Run(name, 0, 1))
    assert rules(tale, tmp_path, a="completed", b="completed", c="completed") == set()


def test_c7_what_a_repeated_call_brings_came_out_with_its_first_try(tale, tmp_path):
    """The reply with a was lost; b went to another worker before the repeat brought a."""
    tale.enqueue("a")
    tale.enqueue("b")
    lost = tale.tell("w", "invoke", verb="settle")
    tale.tell("w", "unknown", call=lost, problem="STORE_UNAVAILABLE")
    refused = tale.tell("w", "invoke", verb="settle")
    tale.tell("w", "fail", call=refused, problem="STORE_UNAVAILABLE")
    tale.run(B1, process="v")
    tale.run(A1)
    assert rules(tale, tmp_path, a="completed", b="completed") == set()


def test_c7_a_call_that_follows_an_answer_is_no_repeat(tale, tmp_path):
    tale.enqueue("a")
    tale.enqueue("b")
    tale.deliver()
    tale.run(B1, process="v")
    tale.run(A1)
    assert rules(tale, tmp_path, a="completed", b="completed") == {"C7"}


def test_c7_a_fetch_that_was_taken_back_let_others_go_first(tale, tmp_path):
    """It had locked a; b was given out beside it; the server cut its connection, and a third worker was given a."""
    tale.enqueue("a")
    tale.enqueue("b")
    lost = tale.tell("w", "invoke", verb="settle")
    tale.run(B1, process="v")
    tale.tell("w", "unknown", call=lost, problem="STORE_UNAVAILABLE")
    tale.run(A1, process="u")
    assert rules(tale, tmp_path, a="completed", b="completed") == set()


@pytest.mark.parametrize("ends", ["told", "killed"])
def test_c7_a_fetch_that_was_taken_back_is_no_excuse_for_ever(tale, tmp_path, ends):
    tale.enqueue("a")
    tale.enqueue("b")
    lost = tale.tell("w", "invoke", verb="settle")
    if ends == "told":
        tale.tell("w", "unknown", call=lost, problem="STORE_UNAVAILABLE")
    else:
        tale.tell("nemesis", "fault", victim="w", problem="killed")
    tale.passed_ns += LINGERS_NS
    tale.run(B1, process="v")
    tale.run(A1, process="u")
    assert rules(tale, tmp_path, a="completed", b="completed") == {"C7"}


def test_c7_a_fetch_that_comes_later_is_no_excuse(tale, tmp_path):
    tale.enqueue("a")
    tale.enqueue("b")
    tale.run(B1, process="v")
    tale.tell("w", "unknown", call=tale.tell("w", "invoke", verb="settle"), problem="STORE_UNAVAILABLE")
    tale.run(A1, process="u")
    assert rules(tale, tmp_path, a="completed", b="completed") == {"C7"}


def test_c7_each_gate_has_a_line_of_its_own(tale, tmp_path):
    for job_id, gate in (("a", "g"), ("b", "g"), ("c", "h")):
        call = tale.tell("p", "invoke", verb="enqueue", jobs=(Enqueuing(job_id, gate=gate),))
        tale.tell("p", "ok", call=call, replies=((job_id, True),))
    tale.run(Run("c", 0, 1))
    tale.run(B1)
    assert rules(tale, tmp_path, a="pending", b="completed", c="completed") == set()
    tale.run(A1)
    assert rules(tale, tmp_path, a="completed", b="completed", c="completed") == {"C7"}


def test_c7_a_refused_attempt_put_nothing_in(tale, tmp_path):
    tale.tell("p", "fail", call=tale.begin_enqueue("a"), problem="QUEUE_FULL")
    tale.enqueue("a")
    tale.enqueue("b")
    tale.run(B1)
    tale.run(A1)
    assert rules(tale, tmp_path, a="completed", b="completed") == {"C7"}


# ── C9 ──
def test_c9_one_key_two_jobs(tale, tmp_path):
    tale.enqueue("a", key="k")
    tale.enqueue("b", key="k")
    assert rules(tale, tmp_path, a="pending", b="pending") == {"C9"}


def test_c9_the_second_gets_the_first(tale, tmp_path):
    tale.enqueue("a", key="k")
    tale.enqueue("b", key="k", is_new=False, got="a")
    assert rules(tale, tmp_path, a="pending") == set()


def test_c9_one_job_is_new_once(tale, tmp_path):
    tale.enqueue("a", key="k")
    tale.enqueue("b", key="k", is_new=True, got="a")
    assert rules(tale, tmp_path, a="pending") == {"C9"}


# ── C15 ──
MOVE = ("old", "new")


def move_on(tale: Tale) -> None:
    """From the old store to the new one, which has given out a job by now."""
    tale.store = "old"
    tale.enqueue("a", "b")
    tale.run(A1)
    tale.store = "new"
    tale.run(B1)
    tale.store = "old"


def look(tale: Tale, *startable: str) -> None:
    tale.tell("o", "ok", call=tale.tell("o", "invoke", verb="look"), startable=startable)


def test_c15_a_quiet_move_is_clean(tale, tmp_path):
    move_on(tale)
    look(tale)
    tale.deliver()
    report = check_history(tale.write(tmp_path), {"a": "completed", "b": "completed"}, stores=MOVE)
    assert report.is_clean, report
    assert report.given == {"old": 1, "new": 1}


def test_c15_a_job_that_could_be_started_in_the_old_store_when_the_new_one_had_begun(tale, tmp_path):
    move_on(tale)
    look(tale, "b")
    assert rules(tale, tmp_path, stores=MOVE, a="completed", b="completed") == {"C15"}


def test_c15_a_look_into_the_new_store_or_before_it_began_is_none_of_it(tale, tmp_path):
    tale.store = "old"
    tale.enqueue("a", "b")
    look(tale, "a", "b")
    tale.store = "new"
    tale.run(A1)
    look(tale, "b")
    assert rules(tale, tmp_path, stores=MOVE, a="completed", b="pending") == set()


def test_c15_a_delivery_by_the_old_store_when_the_new_one_had_begun(tale, tmp_path):
    move_on(tale)
    tale.enqueue("c")
    tale.run(Run("c", 0, 1))
    problems = check_history(tale.write(tmp_path), dict.fromkeys(("a", "b", "c"), "completed"), stores=MOVE).problems
    assert [problem.words.split(" when")[0] for problem in problems] == [
        "old took it in", "old gave it out (fence 1)", "old accepted its ack",
    ]  # fmt: skip


def test_c15_what_overlaps_is_not_judged(tale, tmp_path):
    tale.store = "old"
    tale.enqueue("a", "b")
    call = tale.tell("v", "invoke", verb="settle")
    tale.store = "new"
    tale.run(A1)
    tale.tell("v", "ok", call=call, deliveries=(B1,))
    assert rules(tale, tmp_path, stores=MOVE, a="completed", b="pending") == set()


def test_c15_a_repeat_is_told_what_its_first_try_did(tale, tmp_path):
    tale.store = "old"
    tale.deliver(A1)
    tale.tell("p", "unknown", call=tale.begin_enqueue("a", "b"), problem="STORE_UNAVAILABLE")
    lost = tale.tell("w", "invoke", verb="settle", endings=(Ending(A1, "ack"),))
    tale.tell("w", "unknown", call=lost, problem="STORE_UNAVAILABLE")
    tale.store = "new"
    tale.run(B1, process="v")
    tale.store = "old"
    tale.end(A1)
    tale.enqueue("a", "b")
    assert rules(tale, tmp_path, stores=MOVE, a="completed", b="completed") == set()


def test_c15_a_job_that_both_stores_took_in(tale, tmp_path):
    tale.store = "old"
    tale.enqueue("a")
    tale.store = "new"
    tale.enqueue("a")
    assert rules(tale, tmp_path, stores=MOVE, a="pending") == {"C15"}


def test_c15_an_enqueue_that_one_store_refused_went_to_the_other(tale, tmp_path):
    tale.store = "old"
    tale.tell("p", "fail", call=tale.begin_enqueue("a"), problem="NAMESPACE_MOVED")
    tale.store = "new"
    tale.enqueue("a")
    assert rules(tale, tmp_path, stores=MOVE, a="pending") == set()


def test_c15_stores_that_nobody_named(tale, tmp_path):
    move_on(tale)
    with pytest.raises(ValueError, match="of new: name all"):
        check_history(tale.write(tmp_path), {}, stores=("old", "elsewhere"))


def test_the_other_rules_hold_over_a_move(tale, tmp_path):
    """Lost on the way, run again after its ack, run in both at once, overtaken."""
    move_on(tale)
    tale.store = "new"
    tale.deliver(A2, process="v")
    assert rules(tale, tmp_path, stores=MOVE, a="completed", b="completed") == {"C3"}
    assert rules(tale, tmp_path, stores=MOVE, a="completed") == {"C1", "C3"}


def test_a_start_in_the_new_store_beside_one_in_the_old_is_a_repeat_without_a_reason(tale, tmp_path):
    tale.store = "old"
    tale.enqueue("a")
    tale.deliver(A1)
    tale.tell("w", "start", run=A1)
    tale.store = "new"
    tale.run(A2, process="v")
    assert rules(tale, tmp_path, stores=MOVE, a="completed") == {"C4"}


def test_c7_a_newcomer_that_overtakes_what_was_in_the_old_store(tale, tmp_path):
    tale.store = "old"
    tale.enqueue("a")
    tale.store = "new"
    tale.enqueue("b")
    tale.run(B1)
    tale.run(A1)
    assert rules(tale, tmp_path, stores=MOVE, a="completed", b="completed") == {"C7"}


# ── files ──
def test_a_torn_last_line_is_left_out_and_a_broken_one_is_not(tale, tmp_path):
    tale.enqueue("a")
    (file,) = tale.write(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"kind":"inv')
    assert len(read_events([file])) == 2
    file.write_bytes(b"nonsense\n" + whole)
    with pytest.raises(ValueError, match=r"p\.jsonl:1"):
        read_events([file])


def test_the_report_can_be_read(tale, tmp_path):
    tale.enqueue("a")
    tale.run(A1)
    tale.tell("n", "fault", victim="w", problem="killed")
    report = str(check_history(tale.write(tmp_path), {}))
    assert "1 enqueued, 1 started, 0 completed, 1 faults" in report
    assert "C1 a: was acknowledged, and is gone" in report
