"""Every promise names tests, and every test that is named exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.pages import DOCS, PAGES, blocks, section, short, text_of
from support.source import ROOT

GUARANTEES = DOCS / "guarantees.md"
NAMED = re.compile(r"`((?:tests|conformance)/[\w/]+\.py)(?:::(\w+))?`")
SUITE = ROOT / "src" / "psyqueue" / "testing"


def missing(text: str) -> list[str]:
    found = []
    for path, test in NAMED.findall(text):
        file = (ROOT if path.startswith("tests/") else SUITE) / path
        if not file.is_file() or (test and not re.search(rf"^(?:async )?def {test}\(", file.read_text(), re.MULTILINE)):
            found.append(f"{path}::{test}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_every_named_test_exists(page: Path):
    assert missing(text_of(page)) == []


def test_every_promise_names_its_tests():
    promises = re.findall(r"^## (\d+\. .+)$", text_of(GUARANTEES), re.MULTILINE)
    assert len(promises) >= 11
    assert [promise for promise in promises if not NAMED.search(section(GUARANTEES, promise))] == []


def test_check_sees_what_is_missing():
    assert missing("`tests/docs/test_promises.py::test_nothing_of_this_name` `conformance/nothing.py`")
    assert not missing("`tests/docs/test_promises.py::test_check_sees_what_is_missing` `conformance/keys.py`")


def test_test_module_of_the_page_on_stores_passes(tmp_path: Path):
    (block,) = (each for each in blocks(DOCS / "backends" / "writing.md") if each.kind == "fragment")
    (tmp_path / "test_my_backend.py").write_text(block.code, encoding="utf-8")
    options = f"-q -p no:cacheprovider -p no:valkey --rootdir {tmp_path}".split()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-k", "settle or enqueue", "test_my_backend.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
