"""Goals are data; reports hold figures against them, and refuse what cannot be one."""

from __future__ import annotations

import json
import subprocess
import sys

from support.source import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def session(*figures: tuple[str, float], store: str = "redis"):
    lines = []
    for name, value in figures:
        measured = {"value": value, "spin_ms": 1.0, "disturbed": False}
        case, peer, *_ = name.split()
        line = {"store": store, "line": name, "case": case, "peer": peer, "unit": "jobs/s", "n": 1, "waiting": 0}
        lines.append(line | {"median": value, "values": [value], "disturbed": 0, "runs": [measured], "error": None})
    hardware = {"cores": 2, "cpu": "", "memory_gb": 1, "file_system": "", "system": "", "python": "", "sqlite": ""}
    method = {"runs": 1, "figure": "median", "foreign_cores_max": 0.2, "slower_max": 1.3}
    head = {"began_at": "2026-12-01", "commit": "abc", "smoke": False, "seconds": 1, "spin_ms_best": 1.0}
    return head | {"machine": hardware, "method": method, "versions": {}, "lines": lines}


def report(folder, *figures: tuple[str, float], store: str = "redis") -> str:
    file = folder / "session.json"
    file.write_text(json.dumps(session(*figures, store=store)), encoding="utf-8")
    done = run("-m", "benchmarks.report", str(file))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_goal_speaks_of_a_line_that_is_measured():
    lines = set(run("-m", "benchmarks.run", "--list").stdout.splitlines())
    goals = json.loads((ROOT / "benchmarks" / "goals.json").read_text(encoding="utf-8"))
    named = {f"{store}: {line}" for store, data in goals.items() for line in lines_named(data)}
    assert named - lines == set()


def lines_named(data):
    named = {stand_in["line"] for stand_in in data["stand_ins"].values()}
    for goal in data["goals"]:
        against = goal.get("against", goal["ours"])
        named |= {goal["ours"], goal.get("limit", goal["ours"])}
        named |= {against} if isinstance(against, str) else set(against)
    return named - data["stand_ins"].keys()


def test_a_goal_against_several_lines_is_held_against_the_best_of_them(tmp_path):
    text = report(tmp_path, ("W2 psyqueue", 900), ("W2 huey", 1000), ("W2 rq", 100))
    assert "| W2 psyqueue | 900 jobs/s | best of 2: W2 huey 1 000 | 0.90 × | ≥ 1 × | MISSED |  |" in text


def test_what_is_to_be_small_is_held_against_the_smallest(tmp_path):
    text = report(tmp_path, ("W3 psyqueue", 1.0), ("W3 pgqueuer", 2.0), ("W3 pg-boss", 4.0), store="postgres")
    assert "| W3 psyqueue | 1 jobs/s | best of 2: W3 pgqueuer 2 | 0.50 × | ≤ 0.6 × | met |  |" in text


def test_a_goal_whose_opponent_was_not_measured_is_left_out(tmp_path):
    assert "No line of this session has a goal." in report(tmp_path, ("W2 psyqueue", 900))


def test_a_file_from_before_there_were_stores_is_one_of_sqlite(tmp_path):
    old = session(("W1 huey full", 100))
    del old["lines"][0]["store"]
    file = tmp_path / "session.json"
    file.write_text(json.dumps(old), encoding="utf-8")
    assert "## sqlite" in run("-m", "benchmarks.report", str(file)).stdout


def test_a_queue_that_acks_more_than_it_runs_has_no_rate():
    text = """
from benchmarks.machine import Window
from benchmarks.peers.recorder import Recorder
from benchmarks.spec import Spec

recorder = Recorder(Spec(store="redis", case="W1", kind="process", peer="huey", n=2), lambda: None)
with Window() as window:
    recorder.start({"i": 0})
    recorder.ack()
    recorder.ack()
recorder.rate(window)
"""
    assert "huey: 2 acks, but only 1 of 2 jobs ran" in run("-c", text).stderr
