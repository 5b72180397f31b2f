"""Small storms on every run of the tests; `python -m crash.storm --kills 200` makes a great one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crash.roles import Place
from crash.storm import final_jobs_at, one_to_miss, storm
from psyqueue.testing.history import Report, check_history
from support.store_at import place_on

if TYPE_CHECKING:
    from conftest import OwnServers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def expect_clean(report: Report) -> None:
    assert report.is_clean, report
    assert report.enqueued > 100, report
    assert report.started >= report.completed > 100, report


def expect_loss_to_be_noticed(place: Place) -> None:
    """Whoever reads the same files with one job taken out of the store has to notice."""
    jobs = final_jobs_at(place)
    missing = one_to_miss(place, jobs)
    del jobs[missing]
    (problem,) = check_history(place.folder.glob("*.jsonl"), jobs).problems
    assert (problem.rule, problem.job_id) == ("C1", missing)


def test_nothing_is_lost_and_nothing_runs_after_its_ack_while_processes_are_killed(tmp_path: Path):
    place = Place(tmp_path)
    expect_clean(storm(place, kills=12, seed=20_261_124, workers=3))
    expect_loss_to_be_noticed(place)


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_nothing_is_lost_and_nothing_runs_after_its_ack_while_the_server_is_killed_too(
    kind: str, tmp_path: Path, own_servers: OwnServers
):
    """Each write is synced before it is answered: a killed server has all that it acknowledged when it is back."""
    server = getattr(own_servers, kind)(durable=True)
    place = Place(tmp_path, place_on(server.url, "storm"))
    # Of both servers, the plan of this seed has every kind of harm.
    report = storm(place, kills=12, seed=156, workers=3, server=server)
    expect_clean(report)
    assert report.unknown > 0, "calls met a dead server"
    expect_loss_to_be_noticed(place)
