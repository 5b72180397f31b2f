"""`psyqueue demo`, run to the end, interrupted, lied to, and left alone by its workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.waiting import is_process_alive, wait_until

KEYS = [
    "ok",
    "files",
    "processed",
    "lost",
    "run_after_ack",
    "repeated",
    "killed_workers",
    "reclaimed",
    "seconds",
    "jobs_per_second",
]
PIDS = r"worker processes on one SQLite file: pids ([\d, ]+)"


@pytest.fixture
def folder(tmp_path):
    """Real sources, and files that are hard to read."""
    made = tmp_path / "files"
    made.mkdir()
    for number in range(12):
        (made / f"module_{number}.py").write_text(f"class A{number}:\n    def b(self):\n        return {number}\n")
    (made / "crooked.py").write_text("def f(:\n")
    (made / "latin.py").write_bytes(b"# -*- coding: utf-8 -*-\nname = '\xff\xfe'\n")
    (made / "zero.py").write_bytes(b"\0\0\0")
    (made / "empty.py").write_bytes(b"")
    (made / "large.py").write_text("x = 1\n" * 60_000)
    (made / "notes.txt").write_text("no Python\n")
    (made / "below").mkdir()
    (made / "below" / "deep.py").write_text("def g(): ...\n")
    (made / "again.py").hardlink_to(made / "module_0.py")
    return made


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where the demo puts its temporary folder."""
    # Not below tmp_path, whose length would keep the sockets of the store from lying beside it.
    with tempfile.TemporaryDirectory(prefix="pq") as made:
        yield Path(made)


def test_every_file_is_counted_once_although_a_worker_is_killed(cli, folder, scratch):
    answer = cli.run("demo", "--path", folder, "--json", store=False, TMPDIR=str(scratch))
    assert answer.code == 0, answer
    found = answer.json
    assert list(found)[: len(KEYS)] == KEYS
    assert (found["ok"], found["files"], found["processed"]) == (True, 18, 18)
    assert (found["lost"], found["run_after_ack"], found["killed_workers"]) == (0, 0, 1)
    assert found["reclaimed"] == len(found["held_by_killed"]) >= 1
    assert found["repeated"] == len(found["repeated_jobs"])
    assert set(found["repeated_jobs"]) <= set(found["held_by_killed"])
    assert found["seconds"] > 0
    assert found["jobs_per_second"] > 0
    assert found["totals"]["classes"] == 12
    assert found["totals"]["functions"] == 13
    assert found["totals"]["bytes"] == sum(
        path.stat().st_size for path in folder.rglob("*.py") if path.name != "again.py"
    )
    assert answer.err == ""
    assert list(scratch.iterdir()) == [], "nothing is left behind"


def test_a_person_is_told_what_happened(cli, folder, scratch):
    running = cli.start("demo", "--path", folder, "--workers", "2", "--keep", TMPDIR=str(scratch))
    cli.pids += [int(pid) for pid in running.line(PIDS)[1].split(",")]
    killed = int(running.line(r"✗ kill -9 of worker demo-\d \(pid (\d+)\) while it held \d+ jobs?: \w{8}-")[1])
    cli.pids.append(int(running.line(r"\+ demo-3 \(pid (\d+)\) started in its place")[1]))
    running.line(r"↺ its lease ended: \d+ jobs? taken back by the other workers [\d.]+ s after the kill")
    running.line("Every file was counted exactly once")
    assert running.end() == 0
    assert "\x1b" not in running.text, "no terminal, no colours"
    assert re.search(
        r"18 of 18 done, 0 active, 0 pending · 2 workers · \d+ jobs/s · run p50 [\d.]+ ms p95", running.text
    )
    assert "4 files could not be parsed, or are too large for it" in running.text
    assert f"(pid {killed}) while it held" in running.text
    assert not any(is_process_alive(pid) for pid in cli.pids)
    (kept,) = scratch.iterdir()
    assert f"kept       {kept}" in running.text
    assert {path.name for path in kept.iterdir()} >= {"demo.db", "journal.jsonl", "workers.log"}
    looked = cli.run("queues", "ls", "--json", "--backend", f"sqlite:{kept}/demo.db", store=False)
    assert looked.json["items"][0]["counts"]["completed"] == 18


def test_a_terminal_shows_a_moving_line_and_is_left_as_it_was(cli, folder):
    code, text = cli.in_terminal("demo", "--path", folder)
    assert code == 0, text
    assert "\x1b[?25l" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "█" in text


def test_a_folder_without_python_is_counted_as_text(cli, scratch):
    texts = cli.folder / "texts"
    texts.mkdir()
    for number in range(5):
        (texts / f"{number}.txt").write_text("line\n" * number)
    (texts / "picture").write_bytes(b"\x89PNG\0\0")
    answer = cli.run("demo", "--path", texts, "--workers", "1", "--json", store=False, TMPDIR=str(scratch))
    assert answer.code == 0, answer
    assert (answer.json["files"], answer.json["totals"]["lines"]) == (5, 10)


def test_nothing_to_count_is_wrong_use(cli):
    empty = cli.folder / "empty"
    empty.mkdir()
    answer = cli.run("demo", "--path", empty, store=False)
    assert answer.code == 2, answer
    assert "no file to count in" in answer.err
    assert cli.run("demo", "--path", cli.folder / "nowhere", store=False).code == 2


@pytest.mark.parametrize(
    ("forge", "told"),
    [
        (lambda run: {**run, "fence": run["fence"] + 1_000}, "runs began after their job was acknowledged"),
        (lambda run: {**run, "fence": 0}, "jobs ran again with no lost worker behind it"),
        (lambda run: {**run, "job_id": "somebody-else"}, "the journal tells of 1 jobs that nobody enqueued"),
        (lambda run: "scribble", "1 lines of the journal cannot be read"),
    ],
    ids=["late run", "double run", "unknown job", "unreadable"],
)
def test_a_forged_journal_makes_the_demo_fail(cli, folder, scratch, forge, told):
    running = cli.start("demo", "--path", folder, "--json", TMPDIR=str(scratch))
    begins: list[dict[str, Any]] = []

    def has_begun() -> bool:
        for path in scratch.glob("psyqueue-demo-*/journal.jsonl"):
            begins.extend(json.loads(line) for line in path.read_text().splitlines(keepends=True) if line[-1] == "\n")
        return bool(begins)

    assert wait_until(has_begun, limit_s=30)
    (journal,) = scratch.glob("psyqueue-demo-*/journal.jsonl")
    forged = forge(begins[0])
    with journal.open("a") as opened:
        opened.write((forged if isinstance(forged, str) else json.dumps(forged)) + "\n")
    assert running.end(60) == 1
    found = json.loads(running.text)
    assert found["ok"] is False
    assert any(told in problem for problem in found["problems"]), found["problems"]
    assert found["processed"] == found["files"], "the store itself is whole"
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_leaves_neither_process_nor_file(cli, folder, scratch, number):
    running = cli.start("demo", "--path", folder, TMPDIR=str(scratch))
    cli.pids += [int(pid) for pid in running.line(PIDS)[1].split(",")]
    running.send(number)
    assert running.end() == 128 + number
    assert "the demo was interrupted" in running.text
    assert "Traceback" not in running.text
    assert not any(is_process_alive(pid) for pid in cli.pids)
    assert list(scratch.iterdir()) == []


def test_a_demo_whose_reader_goes_away_tidies_up(cli, folder, scratch):
    command = f"{sys.executable} -m psyqueue demo --path {folder} | head -n 5"
    environment = {**cli.environment, "TMPDIR": str(scratch)}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    cli.pids += [int(pid) for pid in re.findall(r"\d+", done.stdout.splitlines()[-1].partition("pids")[2])]
    assert cli.pids, done.stdout
    assert wait_until(lambda: list(scratch.iterdir()) == [], limit_s=30)
    assert wait_until(lambda: not any(is_process_alive(pid) for pid in cli.pids))


def test_workers_end_by_themselves_when_the_demo_is_killed(cli, folder, scratch):
    running = cli.start("demo", "--path", folder, TMPDIR=str(scratch))
    cli.pids += [int(pid) for pid in running.line(PIDS)[1].split(",")]
    running.send(signal.SIGKILL)
    running.end()
    assert wait_until(lambda: not any(is_process_alive(pid) for pid in cli.pids), limit_s=30)


def test_a_demo_without_workers_says_so_and_fails(cli, folder, scratch):
    running = cli.start("demo", "--path", folder, TMPDIR=str(scratch))
    cli.pids += [int(pid) for pid in running.line(PIDS)[1].split(",")]
    for pid in cli.pids:
        os.kill(pid, signal.SIGKILL)
    assert running.end() == 1
    assert re.search(r"psyqueue: the demo stopped at \d+ of 18 files: demo-1 ended by itself", running.text)
    assert "killed by SIGKILL" in running.text
    assert "Traceback" not in running.text
    assert list(scratch.iterdir()) == []
