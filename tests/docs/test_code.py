"""Every block of Python in the documents runs and prints what it says; every command line in them exists.

A block with `asyncio.run(...)` or `if __name__ == ...` is a program of its own. The other blocks of a page are one
session, in order, with `await` at top level, as in a notebook. `# → text` states a printed line, `…` in it stands for
any text.
A fragment (`<!-- fragment: reason -->` above it) only has to be Python; an excerpt (`<!-- from: file -->`) stands in
the file as it is.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from docs.pages import PAGES, README, Block, blocks, short, text_of
from psyqueue.cli.main import cli
from support.logged import without_dead_jobs
from support.source import ROOT

LIMIT_S = 60.0
FRAGMENTS_MAX = 7
RUNNER = Path(__file__).with_name("session.py")
PYTHON = [block for page in PAGES for block in blocks(page)]
PROGRAMS = [block for block in PYTHON if block.kind == "program"]
SESSIONS = {page: found for page in PAGES if (found := [each for each in blocks(page) if each.kind == "session"])}


def run(arguments: list[str], folder: Path, given: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(folder)},
        input=given,
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.returncode, without_dead_jobs(done.stderr)) == (0, "")
    return done.stdout


def stated(code: str) -> list[str]:
    return re.findall(r"# → (.*)$", code, re.MULTILINE)


def assert_printed(printed: str, code: str) -> None:
    lines, wanted = printed.splitlines(), stated(code)
    patterns = [".*".join(re.escape(part) for part in line.split("…")) for line in wanted]
    fits = len(lines) == len(wanted) and all(map(re.fullmatch, patterns, lines))
    assert fits, f"printed {lines}, stated {wanted}"


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.name)
def test_program_prints_what_it_says(block: Block, tmp_path: Path):
    (tmp_path / "program.py").write_text(block.code, encoding="utf-8")
    assert_printed(run(["program.py"], tmp_path), block.code)


@pytest.mark.parametrize("page", SESSIONS, ids=short)
def test_session_prints_what_it_says(page: Path, tmp_path: Path):
    session = SESSIONS[page]
    printed = run([str(RUNNER), str(page)], tmp_path, json.dumps([(block.line, block.code) for block in session]))
    for block, text in zip(session, json.loads(printed), strict=True):
        assert_printed(text, block.code)


def test_fragments_are_few_and_python():
    fragments = [block for block in PYTHON if block.kind == "fragment"]
    for block in fragments:
        compile(block.code, block.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert len(fragments) <= FRAGMENTS_MAX


@pytest.mark.parametrize("block", [each for each in PYTHON if each.kind == "excerpt"], ids=lambda block: block.name)
def test_an_excerpt_stands_in_its_program_as_it_is(block: Block):
    """The program is run by its own test."""
    assert block.source is not None
    assert f"\n{block.code}" in text_of(ROOT / block.source)


@pytest.mark.parametrize("block", [each for page in PAGES for each in blocks(page, "toml")], ids=lambda each: each.name)
def test_toml_can_be_read(block: Block):
    assert tomllib.loads(block.code)


def command_lines(page: Path) -> list[str]:
    """Indented lines that begin with `psyqueue`."""
    return re.findall(r"^ {4,8}(psyqueue [^\n]*?)(?:  +#.*)?$", text_of(page), re.MULTILINE)


def unknown_words(line: str) -> list[str]:
    """The commands and options in a command line that do not exist; a usage line (`psyqueue jobs ID...`) is fine."""
    words = shlex.split(re.split(r" (?:&&|\|) ", line)[0])[1:]
    command: click.Command = cli
    known = {name for item in cli.params for name in item.opts}
    wrong = []
    for word in words:
        if word.startswith("-"):
            wrong += [word] if word.split("=")[0] not in {*known, "--help", "-h"} else []
        elif isinstance(command, click.Group):
            if found := command.commands.get(word):
                command = found
                known |= {name for item in command.params for name in item.opts}
            elif re.fullmatch(r"[a-z-]+", word):
                wrong.append(word)
    return wrong


@pytest.mark.parametrize("page", [page for page in PAGES if command_lines(page)], ids=short)
def test_command_lines_exist(page: Path):
    assert [(line, wrong) for line in command_lines(page) if (wrong := unknown_words(line))] == []


@pytest.mark.parametrize("line", ["psyqueue jobs list", "psyqueue nothing", "psyqueue dead purge --force"])
def test_check_sees_a_wrong_command(line):
    assert unknown_words(line)


@pytest.mark.parametrize(
    "line", ["psyqueue jobs ls --status dead --json", "psyqueue --backend sqlite:./jobs.db doctor"]
)
def test_check_allows_a_right_command(line):
    assert unknown_words(line) == []


@pytest.mark.parametrize(("printed", "code"), [("1\n", ""), ("", "# → 1"), ("2\n", "# → 1"), ("1\n2\n", "# → 1")])
def test_check_sees_a_wrong_output(printed, code):
    with pytest.raises(AssertionError):
        assert_printed(printed, code)


def test_commands_of_the_readme_are_those_that_ci_runs():
    set_up = "python3 -m venv .venv && . .venv/bin/activate"
    demo = "pip install . && psyqueue demo"
    tests = "pip install -e '.[test,servers]' && pytest -n auto --dist worksteal"
    readme, ci = text_of(README), text_of(ROOT / ".ci" / "run")
    assert f"    {set_up}\n    {demo}\n    {tests}\n" in readme
    assert f"    {set_up}\n" in text_of(ROOT / "CONTRIBUTING.md")
    assert "pip install --quiet .\nstep psyqueue demo" in ci
    assert "-e '.[test,servers" in ci
    # What .ci/run takes out of the README by its own expression is one line, the README's test command.
    (expression,) = re.findall(r"sed -n (\"[^\"]+\") README\.md", ci)
    picked = subprocess.run(
        ["bash", "-c", f"sed -n {expression} README.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert picked.stdout == "pytest -n auto --dist worksteal\n"
