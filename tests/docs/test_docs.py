"""The documentation is true: its programs run, its links lead somewhere, its tables are those of the code."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import psyqueue
from docs.markdown import DOCS, PAGES, ROOT, Block, blocks, first_cells, links
from psyqueue import errors
from psyqueue.job import STATUSES, TRANSITIONS
from psyqueue.kernel.extension import Kernel

PROGRAMS = [block for block in blocks() if not block.is_fragment]
FRAGMENTS_MAX = 6
TEST_COMMAND = "pip install -e '.[test,servers]' && pytest -n auto"
DEMO_COMMAND = "pip install . && psyqueue demo"


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.name)
def test_program_runs_as_it_stands(block: Block, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", block.code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_fragments_are_few_and_parse():
    fragments = [block for block in blocks() if block.is_fragment]
    for block in fragments:
        compile(block.code, block.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert len(fragments) <= FRAGMENTS_MAX


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path):
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


def test_no_page_is_an_orphan():
    seen: set[Path] = set()
    todo = [ROOT / "README.md", DOCS / "index.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        todo += [(page.parent / target).resolve() for target in links(page)]
    assert [str(page.relative_to(ROOT)) for page in DOCS.rglob("*.md") if page.resolve() not in seen] == []


def test_lifecycle_page_has_exactly_the_moves_of_the_code():
    page = (DOCS / "job_lifecycle.md").read_text(encoding="utf-8")
    table = page.split("Every legal move")[1].split("\n## ")[0]
    rows = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table.splitlines() if "|" in line}
    moves = {(start, end, why) for start, ends in TRANSITIONS.items() for end, why in ends.items()}
    assert rows - {("from", "to", "when"), ("---", "---", "---")} == moves
    assert all(f"| {status} |" in page for status in STATUSES)


def test_every_error_is_described_and_nothing_else():
    known = {
        name
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and kind.__module__ == errors.__name__ and not name.startswith("_")
    }
    assert first_cells(DOCS / "errors.md") == known


def test_every_door_of_a_plugin_is_described():
    page = (DOCS / "plugins" / "guide.md").read_text(encoding="utf-8")
    doors = [name for name in vars(Kernel) if not name.startswith("_")]
    assert [name for name in doors if f"kernel.{name}" not in page] == []


def test_every_public_name_is_mentioned():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in psyqueue.__all__ if not re.search(rf"\b{name}\b", text)] == []


def test_commands_of_the_readme_are_those_that_ci_runs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8") + (ROOT / "scripts" / "test").read_text(encoding="utf-8")
    assert f"    {DEMO_COMMAND}\n    {TEST_COMMAND}\n" in readme
    assert "psyqueue demo" in ci
    assert "README" in ci
