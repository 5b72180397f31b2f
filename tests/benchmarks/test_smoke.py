"""The benchmarks still run, every case and every peer that is installed; no time is asserted.

Method: sessions with tiny sizes in processes of their own, as users start them; the tests read the JSON. The whole
session of a store is one test: its parts would run it again in each process of a parallel test run.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from support.source import ROOT

CASES = {
    "sqlite": {"limit", "W1", "W2", "W2c", "W2b", "W3", "W4", "W6", "memory", "calls"},
    "redis": {"limit", "W1", "W2", "W2c", "W2b", "W3", "W4", "waits", "footprint", "memory", "calls"},
    "postgres": {"limit", "W1", "W2", "W2c", "W2b", "W3", "W4", "W5", "waits", "memory", "calls"},
}
OURS = "psyqueue"
OURS_ALONE = {"W4", "W6", "memory", "calls"}
CALLS_PER_JOB_MAX = 0.1
# Per job that goes through a worker under load. Commands inside of scripts count; so do whole pages in the log.
SERVED_PER_JOB_MAX: dict[str, dict[str, float]] = {
    "sqlite": {},
    "redis": {"commands_per_job": 6, "reads_per_job": 0.1, "bytes_in_per_job": 300, "bytes_out_per_job": 300},
    "postgres": {"log_bytes_per_job": 2_000},
}
COUNTED: dict[str, set[str]] = {"sqlite": set(), "redis": {"commands_per_job"}, "postgres": {"log_bytes_per_job"}}
NO_QUEUES = {"bare", "pgbench"}


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def smoke(folder, store):
    file = folder / "smoke.json"
    arguments = ("--store", store, "--smoke", "--offline", "--folder", str(folder), "--out", str(file))
    run("benchmarks.run", *arguments)
    assert [path.name for path in folder.iterdir()] == ["smoke.json"], "files of the measurements stayed behind"
    return file, json.loads(file.read_text(encoding="utf-8"))


def check_lines(session, store):
    left_out = session["left_out"][store]
    expected = CASES[store] - OURS_ALONE if OURS in left_out else CASES[store]
    assert {line["case"] for line in session["lines"]} == expected
    assert {line["line"]: line["error"] for line in session["lines"] if line["error"]} == {}
    for line in session["lines"]:
        assert line["store"] == store
        assert line["peer"] not in left_out
        assert line["values"] == [run["value"] for run in line["runs"]], line["line"]
        assert line["values"], line["line"]
        assert line["n"] > 0
        assert line["unit"]
        for measured in line["runs"]:
            check_run(line, measured)


def check_run(line, measured):
    assert measured["value"] >= 0
    assert measured["spin_ms"] > 0
    assert {"own_cores", "foreign_cores", "window_s", "disturbed"} <= measured.keys()
    if line["case"] == "calls":
        assert measured["value"] <= CALLS_PER_JOB_MAX, measured
        most = SERVED_PER_JOB_MAX[line["store"]]
        assert {name: measured[name] for name in most if measured[name] > most[name]} == {}
    if line["store"] != "sqlite" and line["kind"] == "process":
        assert measured.get("ran", measured.get("acked")) >= line["n"], line["line"]
        assert {"cpu_us_per_job", "server_us_per_job", "rss_mb", *COUNTED[line["store"]]} <= measured.keys()
    if line["kind"] == "churn":
        assert len(measured["rates"]) == measured["rounds"] > 1
        assert measured["ran"] == line["n"]


def check_surroundings(session, store):
    assert session["smoke"] is True
    assert session["stores"] == [store]
    assert session["commit"]
    assert {"cpu", "cores", "python", "sqlite", "file_system"} <= session["machine"].keys()
    assert {"runs", "foreign_cores_max", "slower_max", "repeats_max"} <= session["method"].keys()
    measured = {line["peer"] for line in session["lines"]} - NO_QUEUES
    assert {peer for peer in measured if session["versions"][peer] is None} == set()


@pytest.fixture
def open_folder():
    """The folder of pytest is closed to the user that a server takes instead of root."""
    with tempfile.TemporaryDirectory(prefix="psyqueue-test-bench-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.parametrize("store", CASES)
def test_every_case_runs_and_its_file_holds_what_the_figures_rest_on(open_folder, tmp_path, store):
    file, session = smoke(open_folder, store)
    if "all" in session["left_out"][store]:
        pytest.skip(session["left_out"][store]["all"])
    check_lines(session, store)
    check_surroundings(session, store)
    drawing = tmp_path / "rates.svg"
    text = run("benchmarks.report", str(file), "--plot", str(drawing))
    assert [line["line"] for line in session["lines"] if f"| {line['line']} |" not in text] == []
    assert "SMOKE" in text
    assert f"### {store}" in text
    assert drawing.read_text(encoding="utf-8").startswith("<svg")


def test_tables_of_the_readme_are_what_the_report_makes_of_the_files_they_name():
    """Goals changed, or another session? `python -m benchmarks.report --short FILE` makes the new table."""
    readme = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"benchmarks\.report (results/\S+\.json) --short", readme)
    assert named
    for file in named:
        assert run("benchmarks.report", str(ROOT / "benchmarks" / file), "--short").strip() in readme, file


@pytest.mark.parametrize("store", ["sqlite", "redis", "postgres"])
def test_a_move_is_measured(store):
    found = json.loads(run("benchmarks.moving", "--to", store, "--jobs", "1000"))
    assert (found["ok"], found["moved"], found["to"]) == (True, 1_000, store)
    assert {"copy_jobs_per_s", "bulk_jobs_per_s", "copy_to_bulk", "whole_s", "meanwhile"} <= set(found)


@pytest.mark.parametrize(("store", "counted"), [("redis", "commands_per_job"), ("postgres", "log_bytes_per_job")])
def test_what_ended_jobs_cost_is_measured(store, counted):
    sizes = ("--ended", "2000", "--waiting", "1200", "--jobs", "400")
    found = json.loads(run("benchmarks.ended", "--store", store, *sizes))
    assert [each["ended"] for each in found["rounds"]] == [0, 2_000, 2_000]
    assert all(each[counted] > 1 and len(each["prunes"]) == 3 for each in found["rounds"])
