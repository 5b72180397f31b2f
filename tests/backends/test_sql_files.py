"""Statements come out of files as they stand there, and a mistake in a file is said at once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from psyqueue.backends.sql_files import load_statements


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `some_store` with an empty folder `commands`."""
    home = tmp_path / "some_store"
    (home / "commands").mkdir(parents=True)
    (home / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "some_store", raising=False)
    return home / "commands"


def test_sections_and_whole_files_become_statements(package: Path) -> None:
    (package / "get.sql").write_text("-- Get it.\n-- Params: id\nSELECT 1\n  -- why\nFROM t;\n")
    (package / "put.sql").write_text("-- Put it.\n\n-- name: one\nA;\n\n-- name: two\n-- why\nB 'x;y';\n")
    assert load_statements("some_store") == {"get": "SELECT 1\nFROM t", "put.one": "A", "put.two": "B 'x;y'"}


def test_a_statement_before_the_first_section_is_refused(package: Path) -> None:
    (package / "put.sql").write_text("A;\n-- name: one\nB;\n")
    with pytest.raises(LookupError, match="before the first"):
        load_statements("some_store")


def test_a_name_given_twice_is_refused(package: Path) -> None:
    (package / "put.sql").write_text("-- name: one\nA;\n-- name: one\nB;\n")
    with pytest.raises(LookupError, match="twice"):
        load_statements("some_store")
