"""The pytest plugin: a fixture that makes test kits, and what their jobs did in the report of a test that failed.

It stands beside the package, not inside: pytest imports every plugin that is installed, and whoever tests something
else must not pay for psyqueue, nor find it imported before the coverage of their code is measured.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from psyqueue import PsyQueue
    from psyqueue.testing import Kit

__all__ = ["KitFactory"]


class KitFactory:
    """What `psyqueue_testing` is: `async with psyqueue_testing(q) as t:`."""

    def __init__(self, marked: Mapping[str, Any], kits: list[Kit]) -> None:
        self._marked = marked
        self._kits = kits

    def __call__(self, q: PsyQueue, **options: Any) -> Kit:
        """`q.testing(**options)`, with the options of the test's marks where none are given here."""
        kit = q.testing(**{**self._marked, **options})
        self._kits.append(kit)
        return kit


@pytest.fixture
def psyqueue_testing(request: pytest.FixtureRequest) -> KitFactory:
    """Makes kits as `q.testing(...)` does, with the options of `@pytest.mark.psyqueue(...)`.

    The report of a failure tells what their jobs did. A plain fixture: it works the same under pytest-asyncio and
    anyio, whatever runs the test.
    """
    kits: list[Kit] = []
    request.node.stash[_KITS] = kits
    marked: dict[str, Any] = {}
    for mark in reversed(list(request.node.iter_markers("psyqueue"))):  # the closest one wins
        marked.update(mark.kwargs)
    return KitFactory(marked, kits)


def pytest_configure(config: pytest.Config) -> None:
    """Announce the mark."""
    config.addinivalue_line("markers", "psyqueue(**options): options of q.testing() for the fixture psyqueue_testing")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Add the history of each kit to a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        report.sections += [("psyqueue history", str(kit.history)) for kit in item.stash.get(_KITS, ())]


_KITS: pytest.StashKey[list[Kit]] = pytest.StashKey()
