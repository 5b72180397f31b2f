"""The state machine notices bugs: each one put into a copy of the in-memory store is found.

Method: `mutants` holds stores that are wrong in one place. A machine that lets one of them pass proves less than it
seems to; so this test fails, and the machine has to learn.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from model.mutants import FAITHFUL, MUTANTS, mutant
from model.profiles import HUNT, share
from model.stores import memory_factory, race_on

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


def hunt(name: str, limits: settings = HUNT) -> None:
    run_state_machine_as_test(race_on("mutant", memory_factory(mutant(name))), settings=limits)


@pytest.mark.parametrize("name", [name for name in MUTANTS if name != FAITHFUL])
def test_a_bug_is_noticed(name):
    with pytest.raises(AssertionError):
        hunt(name)


def test_a_copy_without_a_bug_passes():
    """Else the others might be noticed for being copies."""
    hunt(FAITHFUL, share(5))
