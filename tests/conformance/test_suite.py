"""The suite itself: what it says about its own completeness is true."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import psyqueue.testing.conformance as suite
from psyqueue.backend import BackendAdapter, Bound, SessionKeeper
from psyqueue.testing.conformance import KEPT_OUT

HOME = Path(suite.__file__).parent


def test_every_defect_that_is_kept_out_names_tests_that_exist() -> None:
    named = {test for tests in KEPT_OUT.values() for test in tests}
    assert named <= set(suite.__all__), named - set(suite.__all__)


def test_every_verb_of_the_seam_is_called_by_the_suite() -> None:
    called: set[str] = set()
    for path in HOME.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                called.add(node.attr)
    for protocol in (BackendAdapter, Bound, SessionKeeper):
        verbs = {name for name, _ in inspect.getmembers(protocol) if not name.startswith("_")}
        assert verbs <= called, verbs - called
