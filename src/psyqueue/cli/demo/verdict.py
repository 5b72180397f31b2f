"""Was every file counted exactly once? Judged from the store's word, the handlers' own notes, and the files themselves.

Pure: evidence in, verdict out. Whatever does not fit is a problem in words, and one problem is enough for a no.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from psyqueue import JobView
from psyqueue.cli.demo.files import SourceFile
from psyqueue.cli.demo.journal import Entry

SHOWN_MAX = 3
"""Ids shown in one problem."""


class Kill(Struct, frozen=True, kw_only=True):
    """The end of one worker; `held_ids` are the jobs that the store says it held when it was dead."""

    worker: str
    pid: int
    session_id: str
    held_ids: tuple[str, ...]
    killed_after_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """`enqueued`: job id → file, as enqueued. `changed`: paths that are no longer what they were before the run."""

    enqueued: Mapping[str, SourceFile]
    jobs: Sequence[JobView]
    entries: Sequence[Entry]
    broken_lines: int
    kill: Kill | None
    changed: frozenset[str]
    worker_problems: Sequence[str] = ()


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What was found; `problems` is empty if all is well.

    `repeated`: jobs that began more than once. `other_losses`: jobs of a worker that was not killed but was too slow to
    renew its lease. `sizes_found` and `sizes_expected` add up the bytes of all files.
    """

    processed: int = 0
    lost: int = 0
    run_after_ack: int = 0
    repeated: tuple[str, ...] = ()
    reclaimed: int = 0
    other_losses: int = 0
    changed: int = 0
    sizes_found: int = 0
    sizes_expected: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def expect(self, is_true: bool, problem: str) -> None:
        if not is_true:
            self.problems.append(problem)


def judge(evidence: Evidence) -> Verdict:
    """All checks."""
    verdict = Verdict(problems=list(evidence.worker_problems))
    jobs = {job.id: job for job in evidence.jobs}
    begins: dict[str, list[Entry]] = defaultdict(list)
    for entry in evidence.entries:
        if entry.what == "begin":
            begins[entry.job_id].append(entry)
    _check_results(verdict, evidence, jobs)
    _check_journal(verdict, evidence, jobs, begins)
    _check_repeats(verdict, evidence, jobs, begins)
    _check_kill(verdict, evidence.kill, jobs)
    return verdict


def _check_results(verdict: Verdict, evidence: Evidence, jobs: Mapping[str, JobView]) -> None:
    """One completed job with one result for each file, and the results add up to what was there before."""
    wrong_sizes: list[str] = []
    missing: list[str] = []
    for job_id, file in evidence.enqueued.items():
        result = _result(jobs.get(job_id), file)
        if result is None:
            missing.append(job_id)
            continue
        verdict.processed += 1
        if file.path in evidence.changed:
            verdict.changed += 1
            continue
        verdict.sizes_expected += file.size_bytes
        verdict.sizes_found += result["size_bytes"]
        if result["size_bytes"] != file.size_bytes:
            wrong_sizes.append(file.path)
    verdict.lost = len(missing)
    verdict.expect(not missing, f"{len(missing)} files have no result: {_some(missing)}")
    verdict.expect(not wrong_sizes, f"{len(wrong_sizes)} results have the wrong size: {_some(wrong_sizes)}")
    strange = jobs.keys() - evidence.enqueued.keys()
    verdict.expect(not strange, f"the store holds {len(strange)} jobs that nobody enqueued: {_some(strange)}")
    others = [job for job in jobs.values() if job.status != "completed"]
    errors = "; ".join(sorted({_last_error(job) for job in others})[:SHOWN_MAX])
    verdict.expect(not others, f"{len(others)} jobs did not complete: {_some(job.id for job in others)} ({errors})")


def _result(job: JobView | None, file: SourceFile) -> dict[str, Any] | None:
    """The result, if the job completed and it is this file's."""
    if job is None or job.status != "completed" or not isinstance(job.result, dict):
        return None
    return job.result if job.result.get("path") == file.path else None


def _check_journal(
    verdict: Verdict, evidence: Evidence, jobs: Mapping[str, JobView], begins: Mapping[str, Sequence[Entry]]
) -> None:
    """The handlers' notes agree with the store: each result comes from a noted run, and none began after its ack."""
    verdict.expect(evidence.broken_lines == 0, f"{evidence.broken_lines} lines of the journal cannot be read")
    strange = {entry.job_id for entry in evidence.entries} - evidence.enqueued.keys()
    verdict.expect(not strange, f"the journal tells of {len(strange)} jobs that nobody enqueued: {_some(strange)}")
    ended = {(entry.job_id, entry.fence) for entry in evidence.entries if entry.what == "end"}
    unnoted: list[str] = []
    late: list[str] = []
    twice: list[str] = []
    for job in jobs.values():
        runs = begins.get(job.id, ())
        twice += [job.id] * (len(runs) - len({run.fence for run in runs}))
        if job.status != "completed" or not isinstance(job.result, dict) or job.completed_at is None:
            continue
        acked_fence = int(job.result.get("fence", 0))
        if (job.id, acked_fence) not in ended:
            unnoted.append(job.id)
        acked_at_ms = round(job.completed_at.timestamp() * 1000)
        # A slow worker may begin what it held after others ended it; only a lost lease excuses that.
        is_excused = bool(lost_sessions(job))
        late += [
            job.id
            for run in runs
            if run.fence > acked_fence or (run.fence < acked_fence and run.at_ms > acked_at_ms and not is_excused)
        ]
    verdict.run_after_ack = len(late)
    verdict.expect(not late, f"{len(late)} runs began after their job was acknowledged: {_some(late)}")
    verdict.expect(not twice, f"{len(twice)} deliveries ran twice: {_some(twice)}")
    verdict.expect(not unnoted, f"{len(unnoted)} results come from a run that is not in the journal: {_some(unnoted)}")


def _check_repeats(
    verdict: Verdict, evidence: Evidence, jobs: Mapping[str, JobView], begins: Mapping[str, Sequence[Entry]]
) -> None:
    """A job may begin again only as often as a worker that held it was lost."""
    killed_session = evidence.kill.session_id if evidence.kill else None
    repeated = sorted(job_id for job_id, runs in begins.items() if len(runs) > 1)
    unexplained: list[str] = []
    for job_id in repeated:
        sessions = lost_sessions(jobs[job_id]) if job_id in jobs else []
        if len(begins[job_id]) > 1 + len(sessions):
            unexplained.append(job_id)
    verdict.repeated = tuple(repeated)
    verdict.other_losses = sum(
        any(session != killed_session for session in lost_sessions(job)) for job in jobs.values() if job.errors
    )
    verdict.expect(
        not unexplained, f"{len(unexplained)} jobs ran again with no lost worker behind it: {_some(unexplained)}"
    )


def _check_kill(verdict: Verdict, kill: Kill | None, jobs: Mapping[str, JobView]) -> None:
    """A worker was killed while it held jobs, and exactly these were taken back from it."""
    if kill is None:
        verdict.problems.append("no worker was killed while it held jobs, so nothing was shown")
        return
    taken_back = {job.id for job in jobs.values() if job.errors and kill.session_id in lost_sessions(job)}
    verdict.reclaimed = len(taken_back)
    missed = set(kill.held_ids) - taken_back
    verdict.expect(bool(kill.held_ids), "the killed worker held no job, so nothing was shown")
    verdict.expect(not missed, f"{len(missed)} jobs of the killed worker were not taken back: {_some(missed)}")
    others = taken_back - set(kill.held_ids)
    verdict.expect(
        not others, f"{len(others)} jobs were taken back that the killed worker did not hold: {_some(others)}"
    )


def lost_sessions(job: JobView) -> list[str]:
    """The sessions that were lost while they held this job, as the store noted them among its errors."""
    return [str(error.get("session")) for error in job.errors if error.get("type") == "WorkerLost"]


def _last_error(job: JobView) -> str:
    error = job.errors[-1] if job.errors else {}
    return f"{job.status}: {error.get('type', 'no error')} {error.get('message', '')}".rstrip()


def _some(ids: Iterable[str]) -> str:
    shown = sorted(ids)
    more = f" and {len(shown) - SHOWN_MAX} more" if len(shown) > SHOWN_MAX else ""
    return ", ".join(shown[:SHOWN_MAX]) + more
