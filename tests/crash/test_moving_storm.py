"""Small storms of a move in every direction on each run; `python -m crash.moving_storm --kills 200` makes a big one.

Processes are killed, and so are the servers of both stores: each write is synced before it is answered.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crash.moving_storm import STORES, final_jobs_of, place_of, storm
from crash.roles import Place
from crash.storm import one_to_miss
from psyqueue.testing.history import check_history
from support.servers import Server

if TYPE_CHECKING:
    from conftest import OwnServers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
KINDS = ("sqlite", "redis", "postgres")


@pytest.mark.parametrize(("old", "new"), [(old, new) for old in KINDS for new in KINDS if old != new])
def test_a_move_loses_nothing_and_starts_nothing_twice_while_everybody_is_killed(
    old: str, new: str, tmp_path: Path, own_servers: OwnServers
):
    def server_of(kind: str) -> Server | None:
        return None if kind == "sqlite" else getattr(own_servers, kind)(durable=True)

    servers = (server_of(old), server_of(new))
    place = Place(tmp_path, *(place_of(tmp_path, name, server) for name, server in zip(STORES, servers, strict=True)))
    report, pauses = storm(place, kills=3, harms=3, servers=servers, seed=20_261_126, workers=2, producers=1)
    assert report.is_clean, report
    assert min(report.given["old"], report.given["new"]) > 50, report
    assert pauses.refused["NAMESPACE_MOVED"] > 0, "somebody only knew the old store"
    jobs = final_jobs_of(place)
    missing = one_to_miss(place, jobs)
    del jobs[missing]
    problems = check_history(place.folder.glob("*.jsonl"), jobs, stores=STORES).problems
    assert [problem.job_id for problem in problems if problem.rule == "C1"] == [missing]
