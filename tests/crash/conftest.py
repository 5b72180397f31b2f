from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crash.survivors import states
from support.source import TESTS


@pytest.fixture(scope="session")
def expected() -> list[dict[str, Any]]:
    """The states of the model, before the first step of the story and after each."""
    return asyncio.run(states())


@pytest.fixture(scope="session")
def tell() -> Iterator[Callable[..., int]]:
    """Tells the story in a process of its own, with a failpoint; its exit code, below 0 for a signal."""
    env = {**os.environ, "PYTHONPATH": str(TESTS)}
    argv = [sys.executable, "-m", "crash.scenario", "--serve"]
    with subprocess.Popen(argv, env=env, cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        into, out = child.stdin, child.stdout

        def told(place: str, log: Path, plan: str, *, is_repeating: bool = False) -> int:
            print(json.dumps([place, str(log), plan, is_repeating]), file=into, flush=True)
            return int(out.readline())

        yield told
        into.close()
