"""The demo's judgement, on evidence that is made up: each way to be wrong is found out, and named."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from psyqueue import JobView
from psyqueue.cli.demo.files import SourceFile
from psyqueue.cli.demo.journal import Entry, JournalReader, append
from psyqueue.cli.demo.measure import PARSED_BYTES_MAX, measure_file
from psyqueue.cli.demo.verdict import Evidence, Kill, judge

ACKED_AT = datetime(2026, 11, 24, 12, 0, 1, tzinfo=UTC)
ACKED_MS = round(ACKED_AT.timestamp() * 1000)
FILES = {f"job{n}": SourceFile(f"/lib/{n}.py", 100 + n, 1, True) for n in range(3)}


def view(job_id: str, *, fence: int = 1, lost_by: tuple[str, ...] = (), **changes: Any) -> JobView:
    file = FILES[job_id]
    fields: dict[str, Any] = dict.fromkeys(JobView.__struct_fields__)
    fields |= {"id": job_id, "status": "completed", "completed_at": ACKED_AT, "fence": fence, "attempt": fence}
    fields |= {"result": {"path": file.path, "size_bytes": file.size_bytes, "fence": fence}}
    fields |= {"errors": tuple({"type": "WorkerLost", "session": session} for session in lost_by)}
    return JobView(**{**fields, **changes})


def run(job_id: str, fence: int = 1, **changes: Any) -> list[Entry]:
    begin = Entry(what="begin", job_id=job_id, fence=fence, attempt=fence, pid=1, at_ms=ACKED_MS - 100)
    begin = msgspec.structs.replace(begin, **changes)
    return [begin, msgspec.structs.replace(begin, what="end", run_ms=5.0)]


KILL = Kill(worker="demo-1", pid=7, session_id="s1", held_ids=("job0", "job1"), killed_after_ms=10)


def evidence(**changes: Any) -> Evidence:
    """All is well: job0 had begun in the killed worker and ran again, job1 had not begun, job2 ran once."""
    good: dict[str, Any] = {
        "enqueued": FILES,
        "jobs": [view("job0", fence=2, lost_by=("s1",)), view("job1", fence=2, lost_by=("s1",)), view("job2")],
        "entries": [*run("job0")[:1], *run("job0", 2), *run("job1", 2), *run("job2")],
        "broken_lines": 0,
        "kill": KILL,
        "changed": frozenset(),
    }
    return Evidence(**{**good, **changes})


def test_a_run_in_which_all_went_well_is_found_well():
    verdict = judge(evidence())
    assert verdict.problems == []
    assert (verdict.processed, verdict.lost, verdict.run_after_ack, verdict.reclaimed) == (3, 0, 0, 2)
    assert verdict.repeated == ("job0",)
    assert verdict.sizes_found == verdict.sizes_expected == 303


def with_job(number: int, changed: JobView | None) -> dict[str, Any]:
    jobs = list(evidence().jobs)
    jobs[number : number + 1] = [] if changed is None else [changed]
    return {"jobs": jobs}


def entries(*more: Entry) -> dict[str, Any]:
    return {"entries": [*evidence().entries, *more]}


BEGUN_LATE = run("job2", fence=0, at_ms=ACKED_MS + 1)[0]


@pytest.mark.parametrize(
    ("changes", "told", "numbers"),
    [
        (with_job(2, None), "1 files have no result: job2", {"lost": 1, "processed": 2}),
        (with_job(2, view("job2", result=None)), "1 files have no result: job2", {"lost": 1}),
        (with_job(2, view("job2", result={"path": "/other"})), "1 files have no result: job2", {"lost": 1}),
        (with_job(2, view("job2", status="dead")), "1 jobs did not complete: job2", {"lost": 1}),
        (with_job(2, view("job2", status="active")), "1 jobs did not complete: job2", {"lost": 1}),
        (
            with_job(2, view("job2", result={"path": "/lib/2.py", "size_bytes": 1, "fence": 1})),
            "1 results have the wrong size: /lib/2.py",
            {"sizes_found": 202, "sizes_expected": 303},
        ),
        (
            {"enqueued": {"job0": FILES["job0"], "job1": FILES["job1"]}},
            "the store holds 1 jobs that nobody enqueued",
            {},
        ),
        (entries(run("job2", fence=2)[0]), "1 runs began after their job was acknowledged: job2", {"run_after_ack": 1}),
        (entries(BEGUN_LATE), "1 runs began after their job was acknowledged: job2", {"run_after_ack": 1}),
        (entries(run("job2")[0]), "1 deliveries ran twice: job2", {}),
        (entries(run("job2")[0]), "1 jobs ran again with no lost worker behind it: job2", {}),
        (entries(*run("nobody")), "the journal tells of 1 jobs that nobody enqueued: nobody", {}),
        ({"entries": evidence().entries[:-1]}, "1 results come from a run that is not in the journal: job2", {}),
        ({"broken_lines": 2}, "2 lines of the journal cannot be read", {}),
        ({"kill": None}, "no worker was killed while it held jobs", {}),
        ({"kill": msgspec.structs.replace(KILL, held_ids=())}, "the killed worker held no job", {}),
        (
            {"kill": msgspec.structs.replace(KILL, held_ids=("job0",))},
            "1 jobs were taken back that the killed worker did not hold: job1",
            {},
        ),
        (
            with_job(1, view("job1", fence=2)),
            "1 jobs of the killed worker were not taken back: job1",
            {"reclaimed": 1},
        ),
        ({"worker_problems": ["demo-2 drained badly (exit code 1)"]}, "demo-2 drained badly", {}),
    ],
)
def test_whatever_does_not_fit_is_a_problem_in_words(changes, told, numbers):
    verdict = judge(evidence(**changes))
    assert not verdict.ok
    assert any(told in problem for problem in verdict.problems), verdict.problems
    assert {name: getattr(verdict, name) for name in numbers} == numbers


def test_a_repeat_is_right_where_a_slow_worker_lost_its_lease():
    jobs = [*evidence().jobs[:2], view("job2", fence=2, lost_by=("s9",))]
    verdict = judge(evidence(jobs=jobs, entries=[*evidence().entries, *run("job2", fence=2)]))
    assert verdict.problems == []
    assert (verdict.repeated, verdict.other_losses) == (("job0", "job2"), 1)


def test_a_late_begin_of_a_delivery_that_was_lost_is_excused():
    late = run("job0", fence=1, at_ms=ACKED_MS + 1)[0]
    verdict = judge(evidence(entries=[late, *evidence().entries[1:]]))
    assert (verdict.problems, verdict.run_after_ack) == ([], 0)


def test_a_file_that_changed_meanwhile_is_left_out_of_the_sum():
    changed = view("job2", result={"path": "/lib/2.py", "size_bytes": 5, "fence": 1})
    verdict = judge(evidence(**with_job(2, changed), changed=frozenset(("/lib/2.py",))))
    assert verdict.problems == []
    assert (verdict.changed, verdict.sizes_found, verdict.sizes_expected) == (1, 201, 201)


def test_long_lists_are_cut_short():
    verdict = judge(evidence(jobs=[], entries=[], kill=None))
    assert "3 files have no result: job0, job1, job2" in verdict.problems
    many = {f"job{n:02}": FILES["job0"] for n in range(20)}
    verdict = judge(evidence(enqueued=many, jobs=[], entries=[], kill=None))
    assert "20 files have no result: job00, job01, job02 and 17 more" in verdict.problems


# ── the journal ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_journal_is_read_as_it_grows(tmp_path):
    file = tmp_path / "journal"
    reader = JournalReader(file)
    assert reader.read() == []
    begin, end = run("job0")
    append(str(file), begin)
    assert reader.read() == [begin]
    with file.open("ab") as opened:
        opened.write(msgspec.json.encode(end)[:10])
    assert reader.read() == []
    assert reader.unfinished == 10
    with file.open("ab") as opened:
        opened.write(msgspec.json.encode(end)[10:] + b"\n" + b"scribble\n")
    assert reader.read() == [end]
    assert reader.unfinished == 0
    assert reader.unreadable == 1
    assert reader.entries == [begin, end]


# ── one file ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def measured(tmp_path, data: bytes, name: str = "x.py"):
    file = tmp_path / name
    file.write_bytes(data)
    return measure_file(str(file), is_python=name.endswith(".py"))


def test_a_source_is_measured(tmp_path):
    found = measured(
        tmp_path,
        b"# comment\n\nclass A:\n    def b(self):\n        async def c():\n            pass\n\n        return c\n"
        b"if True:\n    def d(): ...\n",
    )
    assert (found.lines, found.code_lines, found.functions, found.classes) == (10, 7, 3, 1)
    assert (found.longest_function, found.longest_function_lines) == ("b", 5)
    assert found.problem == ""
    assert len(found.sha256) == 64


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"def f(:\n", "not parsed: SyntaxError"),
        (b"name = '\xff'\n", "not parsed: SyntaxError"),
        (b"# coding: nonsense\n", "not parsed: SyntaxError"),
        (b"(" * 5_000, "not parsed: "),
        (b"x = 1\n" * (PARSED_BYTES_MAX // 6 + 1), "not parsed: larger than 256 KiB"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_a_result(tmp_path, data, problem):
    found = measured(tmp_path, data)
    assert found.problem.startswith(problem)
    assert found.size_bytes == len(data)


def test_text_is_only_counted(tmp_path):
    found = measured(tmp_path, b"def f(:\n", "notes.txt")
    assert (found.lines, found.problem) == (1, "")


def test_a_file_that_is_gone_is_a_result(tmp_path):
    found = measure_file(str(tmp_path / "gone.py"), is_python=True)
    assert found.problem == "cannot be read: No such file or directory"
    assert found.size_bytes == 0
