"""The benchmarks still run, every case and every peer that is installed; no time is asserted.

Method: sessions with tiny sizes in processes of their own, as users start them; the tests read the JSON. The whole
session is one test: its parts would run it again in each process of a parallel test run.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

from support.source import ROOT

CASES = {"limit", "W1", "W2", "W2c", "W2b", "W3", "W4", "W6", "memory", "calls"}
CALLS_PER_JOB_MAX = 0.1


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def smoke(folder, *arguments: str):
    file = folder / "smoke.json"
    run("benchmarks.run", "--smoke", "--folder", str(folder), "--out", str(file), *arguments)
    assert [path.name for path in folder.iterdir()] == ["smoke.json"], "files of the measurements stayed behind"
    return file, json.loads(file.read_text(encoding="utf-8"))


def check_lines(session):
    assert {line["case"] for line in session["lines"]} == CASES
    assert {line["line"]: line["error"] for line in session["lines"] if line["error"]} == {}
    for line in session["lines"]:
        assert line["values"] == [run["value"] for run in line["runs"]], line["line"]
        assert line["values"], line["line"]
        assert line["n"] > 0
        assert line["unit"]
        for measured in line["runs"]:
            assert measured["value"] >= 0
            assert measured["spin_ms"] > 0
            assert {"own_cores", "foreign_cores", "window_s", "disturbed"} <= measured.keys()
        if line["case"] == "calls":
            assert line["median"] <= CALLS_PER_JOB_MAX, line["runs"]


def check_surroundings(session):
    assert session["smoke"] is True
    assert session["commit"]
    assert {"cpu", "cores", "python", "sqlite", "file_system"} <= session["machine"].keys()
    assert {"runs", "foreign_cores_max", "slower_max", "repeats_max"} <= session["method"].keys()
    missing = {name for name, version in session["versions"].items() if version is None}
    assert set(session["left_out"]["sqlite"]) == missing


def test_every_case_runs_and_its_file_holds_what_the_figures_rest_on(tmp_path):
    file, session = smoke(tmp_path)
    check_lines(session)
    check_surroundings(session)
    drawing = tmp_path / "rates.svg"
    text = run("benchmarks.report", str(file), "--plot", str(drawing))
    assert [line["line"] for line in session["lines"] if f"| {line['line']} |" not in text] == []
    assert "SMOKE" in text
    assert drawing.read_text(encoding="utf-8").startswith("<svg")


def test_every_goal_speaks_of_a_line_that_is_measured():
    lines = set(run("benchmarks.run", "--list").splitlines())
    goals = json.loads((ROOT / "benchmarks" / "goals.json").read_text(encoding="utf-8"))
    named = {f"{store}: {line}" for store, data in goals.items() for line in lines_named(data)}
    assert named - lines == set()


def lines_named(data):
    named = {stand_in["line"] for stand_in in data["stand_ins"].values()}
    for goal in data["goals"]:
        named |= {goal["ours"], goal.get("limit", goal["ours"])}
        named.add(goal.get("against", goal["ours"]))
    return named - data["stand_ins"].keys()
