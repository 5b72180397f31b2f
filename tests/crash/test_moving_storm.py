"""Small storms of a move in every direction on each run; `python -m crash.moving_storm --kills 200` makes a big one."""

from __future__ import annotations

from pathlib import Path

import pytest

from crash.moving_storm import STORES, final_jobs_of, storm
from crash.roles import Place
from psyqueue.testing.history import check_history
from support.store_at import place_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
KINDS = ("sqlite", "redis", "postgres")


@pytest.mark.parametrize(("old", "new"), [(old, new) for old in KINDS for new in KINDS if old != new])
def test_a_move_loses_nothing_and_starts_nothing_twice_while_everybody_is_killed(
    old: str, new: str, tmp_path: Path, request: pytest.FixtureRequest, namespace: str
):
    def place_of(kind: str) -> str:
        if kind == "sqlite":
            return str(tmp_path / "jobs.db")
        return place_on(request.getfixturevalue(f"{kind}_server").url, namespace)

    place = Place(tmp_path, place_of(old), place_of(new))
    report, pauses = storm(place, kills=3, seed=20_261_126, workers=2, producers=1)
    assert report.is_clean, report
    assert min(report.given["old"], report.given["new"]) > 50, report
    assert pauses.refused["NAMESPACE_MOVED"] > 0, "somebody only knew the old store"
    jobs = final_jobs_of(place)
    missing = next(job_id for job_id, status in jobs.items() if status == "completed")
    del jobs[missing]
    problems = check_history(place.folder.glob("*.jsonl"), jobs, stores=STORES).problems
    assert [problem.job_id for problem in problems if problem.rule == "C1"] == [missing]
