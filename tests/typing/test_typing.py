"""Users' programs are checked as they expect: parameters and results are kept through handle, options, build, enqueue.

Both checkers must find exactly the marked errors, on their lines, and reveal exactly the marked types.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

# Not a .py file: it holds errors on purpose, which the project's own checks would find.
TEXT = Path(__file__).with_name("program.py.txt").read_text()
LINES = TEXT.splitlines()
ERRORS = {number for number, line in enumerate(LINES, 1) if line.rstrip().endswith("# error")}
REVEALED = {number: line.split("# reveal: ")[1] for number, line in enumerate(LINES, 1) if "# reveal: " in line}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(TEXT)
    return path


def require(checker: str) -> None:
    """The command for the tests does without the checkers, as a newcomer runs it; CI has to have them."""
    if find_spec(checker) is None:
        missing = f"{checker} is not installed: pip install -e '.[lint]'"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)


def short(text: str) -> str:
    """A type without the modules of its parts."""
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Za-z])", "", text)


def test_program_holds_what_it_is_meant_to_hold():
    assert (len(ERRORS), len(REVEALED)) == (24, 27)


def test_mypy_strict_finds_the_marked_errors_and_types_only(program, tmp_path):
    require("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--show-error-codes"]
    # A configuration of its own: the project's loosens what tests may leave out.
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\n")
    done = subprocess.run(
        [*command, "--config-file", str(config), "--cache-dir", str(ROOT / ".mypy_cache"), str(program)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    errors, revealed = set(), {}
    for line in done.stdout.splitlines():
        match = re.match(r".*?program\.py:(\d+): (error|note): (.*)", line)
        if match is None:
            continue
        number, text = int(match[1]), match[3]
        if match[2] == "error":
            errors.add(number)
        elif found := re.match(r'Revealed type is "(.*)"', text):
            revealed[number] = short(found[1])
    assert (errors, revealed) == (ERRORS, REVEALED), done.stdout + done.stderr


@pytest.mark.slow
def test_pyright_finds_the_marked_errors_and_types_only(program, tmp_path):
    require("pyright")
    config = tmp_path / "pyrightconfig.json"
    config.write_text(json.dumps({"include": [program.name], "pythonVersion": "3.11", "typeCheckingMode": "standard"}))
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = {each["range"]["start"]["line"] + 1 for each in found if each["severity"] == "error"}
    revealed = {
        each["range"]["start"]["line"] + 1: short(match[1])
        for each in found
        if (match := re.search(r'Type of ".*" is "(.*)"', each["message"], re.DOTALL))
    }
    assert (errors, revealed) == (ERRORS, REVEALED), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("package", "symbols_min"), [("psyqueue", 3_500), ("pytest_psyqueue", 5)])
def test_the_type_of_every_public_symbol_is_known_without_being_inferred(tmp_path, package, symbols_min):
    """What a checker infers, another one may infer otherwise: give the symbol an annotation, or make it private."""
    require("pyright")
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", package, "--ignoreexternal", "--outputjson"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    found = json.loads(done.stdout)["typeCompleteness"]
    assert sum(found["exportedSymbolCounts"].values()) >= symbols_min
    unknown = {
        each["name"]: [problem["message"] for problem in each["diagnostics"]]
        for each in found["symbols"]
        if not each["isTypeKnown"]
    }
    assert (unknown, found["completenessScore"]) == ({}, 1)
