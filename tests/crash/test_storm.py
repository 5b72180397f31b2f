"""A small storm on every run of the tests; `python -m tests.crash.storm --kills 200` makes a great one."""

from __future__ import annotations

import pytest

from crash.storm import final_jobs_at, storm
from psyqueue.testing.history import check_history

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_nothing_is_lost_and_nothing_runs_after_its_ack_while_processes_are_killed(tmp_path):
    report = storm(tmp_path, kills=12, seed=20_261_124, workers=3)
    assert report.is_clean, report
    assert report.enqueued > 100, report
    assert report.started >= report.completed > 100, report
    # Whoever reads the same files with one job taken out of the store has to notice.
    jobs = final_jobs_at(tmp_path)
    missing = next(job_id for job_id, status in jobs.items() if status == "completed")
    del jobs[missing]
    (problem,) = check_history(tmp_path.glob("*.jsonl"), jobs).problems
    assert (problem.rule, problem.job_id) == ("C1", missing)
