"""Every example runs as it stands and prints what it says it prints.

Method: a fresh interpreter with an empty folder for its temporary files; warnings are errors.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.logged import without_dead_jobs
from support.source import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LINES_MAX = 80
LIMIT_S = 60.0
WAKE_FOLDER = "psyqueue-"
"""In the temporary folder, where the path of a database is too long for sockets beside it; kept for the next run."""
HEADING = "\n# prints:\n"
NEEDS_A_SERVER = 'environ.get("PSYQUEUE_URL"'


def stated_lines(text: str) -> list[str]:
    """The comment block at the end of an example, without its `# | `; `…` in it stands for any text."""
    _, heading, block = text.rpartition(HEADING)
    lines = block.splitlines()
    if not heading or not lines or not all(line.startswith("# |") for line in lines):
        pytest.fail("the example does not end with its output, each line after `# | `, under `# prints:`")
    return [line.removeprefix("# |").removeprefix(" ") for line in lines]


def pattern_of(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.split("…"))


def differences(printed: str, stated: list[str]) -> list[str]:
    """Empty where the two agree line by line; spaces at the end of a line do not count."""
    lines = [line.rstrip() for line in printed.splitlines()]
    wrong = [
        f"printed {line!r}, stated {wanted!r}"
        for line, wanted in zip(lines, stated, strict=False)
        if not re.fullmatch(pattern_of(wanted), line)
    ]
    wrong += [f"printed {line!r}, not stated" for line in lines[len(stated) :]]
    return wrong + [f"stated {wanted!r}, not printed" for wanted in stated[len(lines) :]]


def test_examples_are_found_and_numbered():
    assert [path.name[:3] for path in EXAMPLES] == [f"{number:02}_" for number in range(1, len(EXAMPLES) + 1)]
    assert EXAMPLES


def run_example(path: Path, folder: Path, **environment: str) -> str:
    """What it printed."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PSYQUEUE")}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=folder,
        env={**ours, "TMPDIR": str(folder), "TEMP": str(folder), "PYTHONUTF8": "1", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT_S,
        check=False,
    )
    assert without_dead_jobs(done.stderr) == ""
    assert done.returncode == 0
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_prints_what_it_says(path: Path, tmp_path: Path, request: pytest.FixtureRequest):
    text = path.read_text(encoding="utf-8")
    stated = stated_lines(text)
    kind = "postgres_server" if "postgresql://" in text else "redis_server"
    environment = {"PSYQUEUE_URL": request.getfixturevalue(kind).url} if NEEDS_A_SERVER in text else {}
    printed = run_example(path, tmp_path, **environment)
    assert differences(printed, stated) == []
    # A store below a long path meets other processes in a folder of its own name, which stays for them.
    assert [left.name for left in tmp_path.iterdir() if not left.name.startswith("psyqueue-")] == []


@pytest.mark.parametrize(
    "path",
    [path for path in EXAMPLES if NEEDS_A_SERVER in path.read_text(encoding="utf-8")],
    ids=lambda path: path.stem,
)
def test_an_example_without_its_server_says_what_it_needs(path: Path, tmp_path: Path):
    assert "Set PSYQUEUE_URL" in run_example(path, tmp_path)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_and_says_what_it_shows(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES_MAX
    assert text.startswith('"""')


@pytest.mark.parametrize("text", ["print(1)\n", "print(1)\n\n# prints:\n", "\n# prints:\n# | 1\nprint(1)\n"])
def test_an_example_without_stated_lines_fails(text):
    with pytest.raises(pytest.fail.Exception):
        stated_lines(text)


@pytest.mark.parametrize(
    ("printed", "stated"),
    [("1\n", ["2"]), ("1\n2\n", ["1"]), ("1\n", ["1", "2"]), ("job 7 failed\n", ["job … ended"]), ("a.c\n", ["abc"])],
)
def test_check_sees(printed, stated):
    assert differences(printed, stated)


def test_check_allows_variable_parts():
    assert differences("job 7 ended \n\n", ["job … ended", ""]) == []
