"""The repository speaks of the project alone, and leaves nothing unsaid for later."""

from __future__ import annotations

import re

import pytest

from support.source import PACKAGE, ROOT, repository_files

# A path of somebody's machine, or the address of a package registry: neither means anything to a stranger.
MACHINE_PATH = re.compile(r"(?<![\w.~}\])*-])/(?:home|root|Users|work|workspaces?|mnt)/\w")
REGISTRY = re.compile(r"https?://[\w.-]*(?:pypi|pythonhosted|npmjs|debian)[\w.-]*", re.IGNORECASE)
LATER = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")
LOCK_FILES = {"uv.lock", "poetry.lock", "Pipfile.lock", "pdm.lock"}
BYTES_MAX = 400_000


def matches(pattern: re.Pattern[str], paths) -> list[str]:
    found = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")[:BYTES_MAX]
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    return found


def test_no_file_names_a_path_of_a_machine():
    assert "\n".join(matches(MACHINE_PATH, repository_files())) == ""


def test_no_file_names_a_registry():
    assert "\n".join(matches(REGISTRY, repository_files())) == ""


def test_source_leaves_nothing_for_later():
    assert "\n".join(matches(LATER, (path for path in repository_files() if path.is_relative_to(PACKAGE)))) == ""


def test_no_lock_file_is_kept():
    assert [path.name for path in repository_files() if path.name in LOCK_FILES] == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (MACHINE_PATH, "see " + "/" + "home/ann/queue.db"),
        (MACHINE_PATH, '"' + "/" + 'work/x"'),
        (REGISTRY, "https:" + "//pypi.org/simple"),
        (LATER, "# TO" + "DO: later"),
    ],
)
def test_check_sees(pattern, text):
    assert pattern.search(text)


@pytest.mark.parametrize("text", ["./work/jobs.db", "sqlite:/var/lib/jobs.db", "https://example.org/work/1"])
def test_check_lets_pass(text):
    assert not MACHINE_PATH.search(text)
