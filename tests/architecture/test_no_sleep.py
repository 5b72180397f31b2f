"""No test waits for time to pass: it waits for an event, or moves the clock by hand."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from support.source import TESTS, Module, calls, modules

SLEEPS = {"time.sleep", "asyncio.sleep", "anyio.sleep"}
# File to the reason why it may sleep. Waiting for another process belongs into support/waiting.py.
ALLOWED: dict[str, str] = {
    "plugins/test_circuit_breaker.py": "a handler takes its time in virtual time",
    "plugins/test_schedules.py": "a handler takes its time in virtual time",
    "testing/test_time.py": "its handlers sleep in virtual time, which is what it tests",
}


def sleeps(module: Module) -> Iterator[str]:
    for name, call in calls(module.tree):
        if name in SLEEPS and not is_one_turn(call):
            yield f"{module.path}:{call.lineno}: {name}"


def is_one_turn(call: ast.Call) -> bool:
    """`sleep(0)` gives the loop one turn; no time passes."""
    return len(call.args) == 1 and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0


def test_no_test_sleeps():
    ours = [module for module in modules(TESTS) if module.path not in ALLOWED]
    assert "\n".join(found for module in ours for found in sleeps(module)) == ""


def test_every_allowance_is_used():
    sleeping = {module.path for module in modules(TESTS) if list(sleeps(module))}
    assert set(ALLOWED) <= sleeping


@pytest.mark.parametrize(
    "text",
    [
        "import time\ntime.sleep(1)",
        "from asyncio import sleep\nasync def f(): await sleep(0.1)",
        "import asyncio as a\nasync def f(): await a.sleep(x)",
    ],
)
def test_check_sees(text):
    assert list(sleeps(Module("x.py", text)))


def test_check_allows_one_turn_of_the_loop():
    assert list(sleeps(Module("x.py", "import asyncio\nasync def f(): await asyncio.sleep(0)"))) == []
