"""Random histories have the same outcome on SQLite as on the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis.stateful import run_state_machine_as_test

from model.profiles import share
from model.stores import race_on
from support.sqlite_store import memory_factory, sqlite_factory

PARTS = 3


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("part", range(PARTS))
def test_sqlite_agrees_with_the_model(part: int, tmp_path: Path) -> None:
    run_state_machine_as_test(race_on(f"sqlite_{part}", sqlite_factory(tmp_path)), settings=share(PARTS))


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_sqlite_in_memory_agrees_with_the_model() -> None:
    run_state_machine_as_test(race_on("sqlite_memory", memory_factory()), settings=share(PARTS))
