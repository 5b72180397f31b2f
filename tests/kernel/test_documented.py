"""Events and options: the documents, the types and the code say the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from psyqueue import EnqueueOptions
from psyqueue.events import EVENTS
from psyqueue.kernel.handlers import HandleOptions

ROOT = Path(__file__).parents[2]
PUBLISHERS = [ROOT / "src" / "psyqueue" / part for part in ("kernel", "plugins")]
EVENT_NAME = re.compile(r"[a-z]+:[a-z-]+")


def rows(page: str) -> dict[str, list[str]]:
    """The first column of the page's tables, with the names in the second."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "docs" / page).read_text().splitlines():
        if line.startswith("| `"):
            cells = line.split("|")
            for name in re.findall(r"`([^`]+)`", cells[1]):
                found[name] = re.findall(r"`([^`]+)`", cells[2])
    return found


def published() -> set[str]:
    """Every text in the kernel and its plugins that is handed to `publish` or to something that hands it on."""
    found: set[str] = set()
    for path in (path for folder in PUBLISHERS for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("publish", "_tell")
            ):
                first = node.args[0]
                if (
                    isinstance(first, ast.Constant)
                    and isinstance(first.value, str)
                    and EVENT_NAME.fullmatch(first.value)
                ):
                    found.add(first.value)
    return found


def test_every_event_is_documented_with_its_data():
    assert rows("events.md") == {event: list(keys) for event, keys in EVENTS.items()}


def test_the_listed_events_are_those_that_are_published():
    assert published() == set(EVENTS)


@pytest.mark.parametrize(("page", "options"), [("enqueue.md", EnqueueOptions), ("handlers.md", HandleOptions)])
def test_every_option_is_documented(page, options):
    assert set(rows(page)) == set(options.__annotations__)
