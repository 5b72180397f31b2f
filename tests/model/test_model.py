"""Random histories have the same outcome on every store as on the model: what they share; each store has its own file.

Method: a Hypothesis state machine does each call on both, compares the replies, and after each step everything that can
be seen of the two stores. `PSYQUEUE_MODEL=nightly` runs 10,000 histories of 80 steps.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from hypothesis.stateful import run_state_machine_as_test

from model.profiles import share
from model.stores import MEMORY, race_on
from psyqueue.backend import BackendAdapter

pytestmark = pytest.mark.timeout(36_000)


def test_the_model_agrees_with_itself():
    """What would differ here differs by chance: time, hashing, an order that nobody promised."""
    run_state_machine_as_test(race_on("memory", MEMORY), settings=share(10))


def test_every_verb_takes_part():
    """Only what is best-effort, or belongs to one kind of store alone, is left to the conformance suite."""
    called = {
        node.attr
        for path in Path(__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    verbs = {name for name, _ in inspect.getmembers(BackendAdapter) if not name.startswith("_")}
    assert verbs - called == {"wait", "publish", "subscribe", "bind", "begin", "capabilities"}
